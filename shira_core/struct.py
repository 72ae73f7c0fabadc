"""Positions of structured masks: whole rows and columns, and the diagonal (SHiRA-Struct)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .mask import Shape, Struct


def positions_of(shape: Shape, struct: Struct, device: torch.device | str = "cpu") -> Tensor:
    """Return the flat positions of a structured mask, int64 (entries,), strictly increasing.

    shape: (outputs, inputs, *taps); rows and columns must lie inside it.
    """
    outputs, inputs, taps = shape[0], shape[1], math.prod(shape[2:])
    cells = torch.zeros(outputs, inputs, dtype=torch.bool, device=device)
    cells[struct.rows.to(device)] = True
    cells[:, struct.columns.to(device)] = True
    if struct.diagonal:
        cells.fill_diagonal_(True) if outputs <= inputs else cells[:inputs].fill_diagonal_(True)
    chosen = cells.view(-1).nonzero().view(-1, 1)
    return (chosen * taps + torch.arange(taps, device=device)).view(-1)

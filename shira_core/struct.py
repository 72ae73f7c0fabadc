"""Positions of structured masks: whole rows and columns, and the diagonal (SHiRA-Struct)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .mask import Shape, Struct


def count_of(shape: Shape, struct: Struct) -> int:
    """Return the number of entries of a structured mask without building it."""
    outputs, inputs, taps = shape[0], shape[1], math.prod(shape[2:])
    rows, columns = len(struct.rows), len(struct.columns)
    cells = rows * inputs + columns * outputs - rows * columns
    if struct.diagonal:
        size = min(outputs, inputs)
        covered = torch.cat(
            [struct.rows[struct.rows < size], struct.columns[struct.columns < size]]
        )
        cells += size - len(covered.unique())
    return cells * taps


def positions_of(shape: Shape, struct: Struct, device: torch.device | str = "cpu") -> Tensor:
    """Return the flat positions of a structured mask, int64 (entries,), strictly increasing.

    shape: (outputs, inputs, *taps); rows and columns must lie inside it. Time and memory grow with
    the entries and the outputs, not with the weight.
    """
    outputs, inputs, taps = shape[0], shape[1], math.prod(shape[2:])
    rows, columns = struct.rows.to(device), struct.columns.to(device)
    numbers = torch.arange(outputs, device=device)
    extra = numbers < (inputs if struct.diagonal else 0)
    place = torch.searchsorted(columns, numbers)
    if len(columns):
        extra &= columns[place.clamp(max=len(columns) - 1)] != numbers
    counts = len(columns) + extra.long()
    counts[rows] = inputs
    full = torch.zeros(outputs, dtype=torch.bool, device=device)
    full[rows] = True
    row = torch.repeat_interleave(numbers, counts)
    inside = torch.arange(len(row), device=device) - (torch.cumsum(counts, 0) - counts)[row]
    place = torch.where(extra, place, len(columns))[row]
    if len(columns):
        chosen = columns[(inside - (inside > place).long()).clamp(0, len(columns) - 1)]
        column = torch.where(inside == place, row, chosen)
    else:
        column = row
    cells = row * inputs + torch.where(full[row], inside, column)
    return (cells.view(-1, 1) * taps + torch.arange(taps, device=device)).view(-1)

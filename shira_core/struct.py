"""Positions of structured masks: whole rows and columns, and the diagonal (SHiRA-Struct)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .mask import Mask, Shape, Struct


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
    numbers, whole = torch.arange(outputs, device=device), torch.arange(inputs, device=device)
    partial = torch.ones(outputs, dtype=torch.bool, device=device)
    partial[rows] = False
    extra = partial & (numbers < (inputs if struct.diagonal else 0))
    extra[columns[columns < outputs]] = False
    counts = torch.where(partial, len(columns) + extra, inputs)
    starts = torch.cumsum(counts, 0) - counts
    cells = torch.empty(int(counts.sum()), dtype=torch.int64, device=device)

    def fill(lines: Tensor, places: Tensor, chosen: Tensor) -> None:
        at = starts[lines].view(-1, 1) + places
        cells.index_copy_(0, at.view(-1), (lines.view(-1, 1) * inputs + chosen).view(-1))

    fill(rows, whole, whole)
    others, crossing = partial.nonzero().view(-1), extra.nonzero().view(-1)
    behind = extra[others].view(-1, 1) & (columns > others.view(-1, 1))  # moved by the diagonal
    fill(others, torch.arange(len(columns), device=device) + behind, columns)
    before = torch.searchsorted(columns, crossing).view(-1, 1)
    fill(crossing, before, crossing.view(-1, 1))
    if taps == 1:
        return cells
    return (cells.view(-1, 1) * taps + torch.arange(taps, device=device)).view(-1)


def described(mask: Mask) -> Mask:
    """Return the mask with a descriptor of its positions, or as it is where none gives them."""
    if len(mask.shape) < 2:
        return mask
    outputs, inputs, taps = mask.shape[0], mask.shape[1], math.prod(mask.shape[2:])
    cells = torch.div(mask.positions, taps, rounding_mode="floor")
    rows = torch.div(cells, inputs, rounding_mode="floor")
    by_row = torch.bincount(rows, minlength=outputs)
    by_column = torch.bincount(cells - rows * inputs, minlength=inputs)
    whole_rows = (by_row == inputs * taps).nonzero().view(-1)
    whole_columns = (by_column == outputs * taps).nonzero().view(-1)
    for diagonal in (False, True):
        struct = Struct(whole_rows, whole_columns, diagonal)
        fits = count_of(mask.shape, struct) == mask.count
        if fits and torch.equal(positions_of(mask.shape, struct), mask.positions):
            return Mask(mask.shape, mask.positions, struct)
    return mask

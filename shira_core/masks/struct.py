"""SHiRA-Struct: evenly spaced rows or columns, and the diagonal (SHiRA, section 3.1).

The lines give a low-rank part, the diagonal makes the delta high-rank. Shard k takes the lines
k places further. A line of one shard crosses the diagonal of another, so the diagonal belongs to
shard 0 alone and later shards leave its cells out, as unstructured masks; with `diagonal=False`
every shard keeps its descriptor. Rows cross columns, so `axis="both"` has shard 0 only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InvalidValue
from ..mask import Mask, Struct
from ..struct import positions_of
from .request import Request, matrix, shard_too_high

AXES = ("columns", "rows", "both")


@dataclass(frozen=True)
class _Amount:
    """How many rows and columns fit the budget, and whether the diagonal does."""

    rows: int
    columns: int
    diagonal: bool


def struct(request: Request, *, axis: str = "columns", diagonal: bool = True) -> Mask:
    """Return whole rows, columns or both, as near to the budget as lines allow.

    The diagonal counts and is left out where it alone exceeds the budget. The count exceeds the
    budget by less than a row or column; a weight too small for that gets the cheapest line.
    """
    if axis not in AXES:
        raise InvalidValue(f"axis {axis!r} is unknown: choose one of {', '.join(AXES)}")
    if len(request.shape) < 2:
        raise InvalidValue(f"{request.where} has no rows and columns: use another mask than struct")
    if axis == "both" and request.shard:
        raise InvalidValue("rows cross columns, so shards overlap: use axis='rows' or 'columns'")
    bare = _amount(request, axis, False)
    amount = _amount(request, axis, True) if diagonal and not request.shard else bare
    outputs, inputs, _ = matrix(request.shape)
    chosen = Struct(
        _lines(request, outputs, max(bare.rows, amount.rows), amount.rows),
        _lines(request, inputs, max(bare.columns, amount.columns), amount.columns),
        amount.diagonal,
    )
    device = request.weight.device
    positions = positions_of(request.shape, chosen, "cpu" if device.type == "meta" else device)
    if diagonal and request.shard:
        return Mask(request.shape, _off_diagonal(request, positions))
    return Mask(request.shape, positions, chosen)


def _amount(request: Request, axis: str, diagonal: bool) -> _Amount:
    outputs, inputs, taps = matrix(request.shape)
    cells = min(outputs, inputs)
    diagonal = diagonal and cells * taps <= request.count
    left = request.count - cells * taps * diagonal
    # of evenly spaced lines, a share of cells / inputs crosses the diagonal: those cells count once
    row = (inputs - diagonal * cells / outputs) * taps
    column = (outputs - diagonal * cells / inputs) * taps
    rows = columns = 0
    if axis != "columns":
        rows = min(outputs, _nearest(left / (2 if axis == "both" else 1), row))
    if axis != "rows":
        columns = min(inputs, _nearest(left - rows * row, column - rows * taps))
    if rows or columns or diagonal:
        return _Amount(rows, columns, diagonal)
    by_row = axis == "rows" or (axis == "both" and inputs < outputs)
    return _Amount(int(by_row), int(not by_row), False)


def _nearest(budget: float, cost: float) -> int:
    """Return how many lines of this cost come nearest to the budget."""
    return int(max(0.0, budget) / max(1.0, cost) + 0.5)


def _lines(request: Request, total: int, slots: int, count: int) -> Tensor:
    """Return `count` of the `slots` evenly spaced lines, moved on by the shard; int64."""
    if not slots:
        return torch.empty(0, dtype=torch.int64)
    if request.shard >= total // slots:
        raise shard_too_high(request, total // slots)
    numbers = torch.arange(count) * slots // max(1, count)
    return numbers * total // slots + request.shard


def _off_diagonal(request: Request, positions: Tensor) -> Tensor:
    _, inputs, taps = matrix(request.shape)
    cells = torch.div(positions, taps, rounding_mode="floor")
    rows = torch.div(cells, inputs, rounding_mode="floor")
    return positions[rows != cells - rows * inputs]

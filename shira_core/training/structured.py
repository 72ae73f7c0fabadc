"""Struct masks without dense gradients: a layer that differentiates only its trained lines.

An ordinary backward pass forms the gradient of a whole weight, of which a Struct mask keeps some
rows, columns and the diagonal. Here a layer computes these alone, and keeps for the backward pass
only the input channels that they need: all for rows, the chosen ones for columns, as many as the
diagonal is long for the diagonal. Its forward pass is as ever, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..entries import compact
from ..mask import Mask, Struct
from . import operations


@dataclass(frozen=True)
class Lines:
    """Where the gradient of a Struct mask's entries comes from. Tensors are int64, `order` int32.

    rows: (r,) the chosen output channels.
    kept: input channels that are needed, increasing, or None for all.
    columns: (c,) places of the chosen input channels among those kept.
    diagonal: number of diagonal cells; the channels that they need are the first ones kept.
    order: (entries,) place of each entry in the gradients of rows, columns, diagonal, end to end;
    None where that is their own order.
    """

    rows: Tensor
    kept: Tensor | None
    columns: Tensor
    diagonal: int
    order: Tensor | None

    def keep(self, x: Tensor, channels: int) -> Tensor:
        """Return what the backward pass needs of a layer's input."""
        return x if self.kept is None else x.index_select(channels, self.kept)

    def gradient(self, operation: operations.Operation, kept: Tensor, grad: Tensor) -> Tensor:
        """Return dL/dW of the entries, (entries,), from `keep` of the input and dL/dy."""
        channels, parts = operation.channels, []
        if len(self.rows):
            parts.append(operation.weight(kept, grad.index_select(channels, self.rows)))
        if len(self.columns):
            parts.append(operation.weight(kept.index_select(channels, self.columns), grad))
        if self.diagonal:
            x, y = (each.narrow(channels, 0, self.diagonal) for each in (kept, grad))
            parts.append(operation.diagonal(x, y))
        if self.order is None:  # one kind of lines
            return parts[0].reshape(-1)
        return torch.cat([part.reshape(-1) for part in parts]).index_select(0, self.order)


def lines_of(mask: Mask, struct: Struct) -> Lines:
    """Return the lines of a mask, on the device of its positions."""
    device = mask.positions.device
    rows, columns = struct.rows.to(device), struct.columns.to(device)
    diagonal = min(mask.shape[:2]) if struct.diagonal else 0
    single = bool(len(rows)) + bool(len(columns)) + bool(diagonal) == 1
    order = None if single else compact(_order(mask, rows, columns), 3 * math.prod(mask.shape))
    kept = torch.cat([columns, torch.arange(diagonal, device=device)]).unique()
    if len(rows) or len(kept) == mask.shape[1]:
        return Lines(rows, None, columns, diagonal, order)
    return Lines(rows, kept, torch.searchsorted(kept, columns), diagonal, order)


def _order(mask: Mask, rows: Tensor, columns: Tensor) -> Tensor:
    (outputs, inputs), taps = mask.shape[:2], math.prod(mask.shape[2:])
    cells = torch.div(mask.positions, taps, rounding_mode="floor")
    row = torch.div(cells, inputs, rounding_mode="floor")
    column = cells - row * inputs
    in_rows, row_place = _find(row, rows)
    in_columns, column_place = _find(column, columns)
    before_columns = len(rows) * inputs
    before_diagonal = before_columns + outputs * len(columns)
    place = torch.where(
        in_columns, before_columns + row * len(columns) + column_place, before_diagonal + row
    )
    place = torch.where(in_rows, row_place * inputs + column, place)
    return place * taps + (mask.positions - cells * taps)


def _find(numbers: Tensor, lines: Tensor) -> tuple[Tensor, Tensor]:
    """Return which numbers are among the increasing lines, and at which place."""
    if not len(lines):
        return torch.zeros_like(numbers, dtype=torch.bool), torch.zeros_like(numbers)
    places = torch.searchsorted(lines, numbers).clamp(max=len(lines) - 1)
    return lines[places] == numbers, places


class _Layer(torch.autograd.Function):
    """A layer's output, whose gradient goes to `entries` in place of the weight."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        entries: Tensor,
        operation: operations.Operation,
        lines: Lines,
    ) -> Tensor:
        y = operation.forward(x, weight, bias)
        # autocast computes in the dtype of y, which is that of dL/dy, too
        ctx.save_for_backward(weight, lines.keep(x, operation.channels).to(y.dtype))
        ctx.operation, ctx.lines, ctx.shape = operation, lines, x.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, kept = ctx.saved_tensors
        operation, by_x, by_bias = ctx.operation, None, None
        if ctx.needs_input_grad[0]:
            by_x = operation.input(ctx.shape, weight.to(grad.dtype), grad)
        if ctx.needs_input_grad[2]:
            by_bias = grad.movedim(operation.channels, 0).flatten(1).sum(1)
        by_entries = ctx.lines.gradient(operation, kept, grad)
        return by_x, None, by_bias, by_entries, None, None


@contextmanager
def installed(layer: nn.Module, entries: Tensor, lines: Lines) -> Iterator[None]:
    """Give the gradient of a layer's Struct entries to `entries` instead of its weight.

    entries: (entries,) a leaf that requires a gradient, of the weight's dtype and device.
    A layer that `operations` does not know is left alone, and so is everything but a call of the
    layer: other uses of its weight, a weight put in its place (`functional_call`), a copy of the
    layer, an input without batch dimension. There the weight gets its dense gradient as ever.
    """
    operation = operations.of(layer)
    if operation is None:
        yield
        return
    weight, plain = layer.get_parameter("weight"), type(layer).forward

    def forward(self: Any, input: Tensor) -> Tensor:
        usual = self.weight is weight and input.dim() >= weight.dim()
        if not usual or not torch.is_grad_enabled():
            return plain(self, input)
        return _Layer.apply(input, weight.detach(), self.bias, entries, operation, lines)

    # bound, so that a deep copy's method is bound to the copy
    layer.forward = MethodType(forward, layer)
    try:
        yield
    finally:
        del layer.forward

"""One weight in training: its trained entries, and its part of the flat vector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import entries
from ..mask import Mask, Struct
from . import dora


@dataclass(frozen=True)
class Site:
    """A weight and where its values lie in the flat vector.

    struct: the lines of its mask, if it has any.
    positions: (entries,) flat row-major, int32 where that holds them: half the memory.
    strides, places: the weight's memory layout, and where the entries lie in it, likewise.
    base: (entries,) the weight's own values, in its dtype.
    values: part of the flat vector with the entries' deltas.
    growth, fixed: with DoRA, the part with the channels' magnitudes, and the decomposition.
    """

    name: str
    weight: nn.Parameter
    struct: Struct | None
    positions: Tensor
    strides: tuple[int, ...]
    places: Tensor
    base: Tensor
    values: slice
    growth: slice | None = None
    fixed: dora.Decomposition | None = None

    @property
    def count(self) -> int:
        """Number of trained entries."""
        return len(self.positions)

    @property
    def mask(self) -> Mask:
        """The mask, with positions of its own, on the weight's device."""
        positions = self.positions.to(torch.int64, copy=True)
        return Mask(tuple(self.weight.shape), positions, self.struct)

    def delta(self, flat: Tensor, dtype: torch.dtype) -> Tensor:
        """Return each entry's delta, rounded to the adapter's dtype, on the weight's device."""
        values = flat[self.values].to(self.base.device)
        if self.fixed is None or self.growth is None:
            return values.to(dtype)
        growth = flat[self.growth].to(self.base.device)
        return dora.delta(self.fixed, values, growth).to(dtype)

    def read(self, tensor: Tensor) -> Tensor:
        """Return the entries of a tensor of the weight's shape, such as its gradient."""
        if tensor.stride() == self.strides:
            return entries.read_places(tensor, self.places)
        return entries.read(tensor, self.positions.long())

    def write(self, values: Tensor, *, counted: bool = True) -> None:
        """Put values of the weight's dtype at the entries of the weight."""
        if self.weight.stride() == self.strides:
            entries.write_places(self.weight, self.places, values, counted=counted)
        else:  # the module's memory format was changed inside the run
            entries.write(self.weight, self.positions.long(), values, counted=counted)

    def add_gradient(self, flat: Tensor, total: Tensor, grad: Tensor) -> None:
        """Add dL/dW' of the entries to `total`, the gradient of the flat vector."""
        if self.fixed is None or self.growth is None:
            total[self.values].add_(grad.to(total.device))
            return
        fixed = self.fixed
        values, growth = (flat.detach()[part].to(fixed.base) for part in (self.values, self.growth))
        by_values, by_growth = dora.gradient(fixed, values, growth, grad.to(fixed.base))
        total[self.values] += by_values.to(total)
        total[self.growth] += by_growth.to(total)

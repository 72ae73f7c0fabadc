"""One weight in training: its trained entries, and its part of the flat vector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import entries
from ..mask import Mask
from . import dora


@dataclass(frozen=True)
class Site:
    """A weight and where its values lie in the flat vector.

    base: (entries,) the weight's own values, in its dtype.
    values: part of the flat vector with the entries' deltas.
    growth, fixed: with DoRA, the part with the channels' magnitudes, and the decomposition.
    """

    name: str
    weight: nn.Parameter
    mask: Mask
    base: Tensor
    values: slice
    growth: slice | None = None
    fixed: dora.Decomposition | None = None

    def delta(self, flat: Tensor, dtype: torch.dtype) -> Tensor:
        """Return each entry's delta, rounded to the adapter's dtype, on the weight's device."""
        values = flat[self.values].to(self.base.device)
        if self.fixed is None or self.growth is None:
            return values.to(dtype)
        growth = flat[self.growth].to(self.base.device)
        return dora.delta(self.fixed, values, growth).to(dtype)

    def write(self, delta: Tensor, *, counted: bool = True) -> None:
        """Put round(W + delta) into the weight: what applying the adapter at alpha 1 gives."""
        moved = (wide(self.base) + delta.to(wide(self.base).dtype)).to(self.base.dtype)
        entries.write(self.weight, self.mask.positions, moved, counted=counted)

    def restore(self) -> None:
        """Put the weight's own values back, bit for bit."""
        entries.write(self.weight, self.mask.positions, self.base)

    def add_gradient(self, flat: Tensor, total: Tensor, grad: Tensor) -> None:
        """Add dL/dW' of the entries to `total`, the gradient of the flat vector."""
        if self.fixed is None or self.growth is None:
            total[self.values] += grad.to(total)
            return
        fixed = self.fixed
        values, growth = (flat[part].to(fixed.base) for part in (self.values, self.growth))
        by_values, by_growth = dora.gradient(fixed, values, growth, grad.to(fixed.base))
        total[self.values] += by_values.to(total)
        total[self.growth] += by_growth.to(total)


def wide(base: Tensor) -> Tensor:
    """Return the values in the dtype that sums are computed in."""
    return base if base.dtype == torch.float64 else base.float()

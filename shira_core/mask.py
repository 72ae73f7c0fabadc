"""The mask of one weight: which of its entries an adapter trains.

Terms: *entries* are positions in the flattened row-major weight. A Linear or Conv weight is seen
as a matrix of output channels (rows) x input channels (columns), each cell holding the kernel's
*taps* (1 for Linear, kh * kw for Conv2d).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Struct:
    """A structured mask (SHiRA-Struct): whole rows and columns, and optionally the diagonal.

    rows: int64 (r,), strictly increasing output channels.
    columns: int64 (c,), strictly increasing input channels.
    diagonal: also train the cells (i, i) for i < min(outputs, inputs).
    """

    rows: Tensor
    columns: Tensor
    diagonal: bool


@dataclass(frozen=True)
class Mask:
    """Trained entries of one weight.

    shape: the weight's shape.
    positions: int64 (entries,), strictly increasing, each in [0, prod(shape)).
    struct: the descriptor that generates `positions`, or None for an unstructured mask.
    """

    shape: Shape
    positions: Tensor
    struct: Struct | None = None

    @property
    def count(self) -> int:
        """Number of trained entries."""
        return self.positions.numel()

    @property
    def density(self) -> float:
        """Trained share of the weight, 0..1."""
        return self.count / max(1, math.prod(self.shape))

    def dense(self) -> Tensor:
        """Return the mask as a bool tensor of the weight's shape."""
        flat = torch.zeros(math.prod(self.shape), dtype=torch.bool, device=self.positions.device)
        flat[self.positions] = True
        return flat.view(self.shape)


@dataclass(frozen=True)
class SparseDelta:
    """The change of one weight: W' = W + alpha * delta (SHiRA, section 3).

    values: (entries,), float16, bfloat16 or float32, in the order of `mask.positions`.
    """

    mask: Mask
    values: Tensor

    @property
    def shape(self) -> Shape:
        return self.mask.shape

    @property
    def positions(self) -> Tensor:
        return self.mask.positions

    @property
    def count(self) -> int:
        return self.mask.count

    def to(self, device: torch.device | str) -> SparseDelta:
        """Return this delta with positions and values on `device`."""
        mask = Mask(self.shape, self.positions.to(device), self.mask.struct)
        return SparseDelta(mask, self.values.to(device))

    def dense(self) -> Tensor:
        """Return the delta as a float32 tensor of the weight's shape."""
        flat = torch.zeros(math.prod(self.shape), device=self.values.device)
        flat[self.positions] = self.values.float()
        return flat.view(self.shape)

"""What a mask function gets: one weight, how many entries, which slice."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

from torch import Tensor

from ..errors import InvalidValue
from ..mask import Shape


@dataclass(frozen=True)
class Request:
    """One call of a mask function.

    weight: any dtype and device; only `rand` and `struct` accept a meta tensor.
    count: entries wanted, 1 <= count <= weight.numel().
    seed, layer: what `rand` draws from; two layers of one shape differ by their names.
    gradient: of the weight's shape, or None.
    shard: 0 for the best entries, k for the k-th slice that overlaps no other slice.
    """

    weight: Tensor
    count: int
    seed: int = 0
    layer: str = ""
    gradient: Tensor | None = None
    shard: int = 0

    @property
    def shape(self) -> Shape:
        return tuple(self.weight.shape)

    @property
    def where(self) -> str:
        """Name of the weight for a message."""
        return f"{self.layer or 'weight'} {'x'.join(map(str, self.shape))}"

    def slice(self) -> tuple[int, int]:
        """Return the first and past-the-end rank of this shard; raises when it does not fit."""
        start, stop = self.shard * self.count, (self.shard + 1) * self.count
        if stop > self.weight.numel():
            raise shard_too_high(self, self.weight.numel() // self.count)
        return start, stop


def shard_too_high(request: Request, available: int) -> InvalidValue:
    """Return the error of a shard beyond the `available` ones."""
    return InvalidValue(
        f"shard {request.shard} of {request.where} does not exist: at {request.count} entries "
        f"there are {available} (0..{available - 1}): lower the shard or the density"
    )


def matrix(shape: Shape) -> tuple[int, int, int]:
    """Return (outputs, inputs, taps) of a Linear or Conv weight; a vector is one column."""
    outputs, inputs = shape[0], shape[1] if len(shape) > 1 else 1
    return outputs, inputs, math.prod(shape[2:])


def budget(shape: Shape, density: float | None, rank: int | None) -> int:
    """Return how many entries to train: a share of the weight, or as many as a LoRA has.

    density: in (0, 1], rounded down, at least one entry.
    rank: rank * (outputs + inputs * taps) entries, at most the whole weight.
    """
    if (density is None) == (rank is None):
        raise InvalidValue("give either density= (a share such as 0.02) or rank= (such as 16)")
    total = math.prod(shape)
    if total < 1:
        raise InvalidValue(f"a weight of shape {tuple(shape)} has no entries: leave it out")
    if density is not None:
        return max(1, math.floor(_checked_density(density) * total + 1e-6))
    outputs, inputs, taps = matrix(shape)
    return min(total, _checked_rank(rank) * (outputs + inputs * taps))


def _checked_density(density: float) -> float:
    if isinstance(density, (int, float)) and 0 < density <= 1:
        return float(density)
    raise InvalidValue(f"density {density!r} is not a share in (0, 1]: 2 % is 0.02")


def _checked_rank(rank: object) -> int:
    try:
        value = operator.index(rank)  # type: ignore[arg-type]
    except TypeError:
        value = 0
    if value < 1:
        raise InvalidValue(f"rank {rank!r} is not a whole number from 1 up")
    return value

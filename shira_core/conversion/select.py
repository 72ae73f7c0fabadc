"""The largest entries of dense deltas, which are computed one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..adapter import MemoryWeights
from ..mask import Shape
from .choice import Choice, Energy


@dataclass(frozen=True)
class Deltas:
    """Dense deltas to choose from. read: one by name, float32 of its shape; asked for twice."""

    shapes: Mapping[str, Shape]
    read: Callable[[str], Tensor]


def select(deltas: Deltas, choice: Choice) -> tuple[MemoryWeights, Energy]:
    """Return the chosen entries, float32, and what they carry; weights without any are left out."""
    raise NotImplementedError

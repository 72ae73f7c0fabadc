"""An adapter in memory: a header that describes it and the sparse delta of each weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from .header import Header
from .mask import Shape, SparseDelta

__all__ = ["Adapter", "Header", "MemoryWeights", "Weights"]


class Weights(Protocol):
    """Read-only mapping of checkpoint weight name to delta; files implement it lazily."""

    def __getitem__(self, name: str) -> SparseDelta: ...

    def __iter__(self) -> Iterator[str]: ...

    def __len__(self) -> int: ...

    def __contains__(self, name: object) -> bool: ...

    def shape(self, name: str) -> Shape:
        """Shape of the full weight, without reading the delta."""
        ...

    def count(self, name: str) -> int:
        """Number of entries, without reading the delta."""
        ...

    def read(self, name: str, device: torch.device | str = "cpu") -> SparseDelta:
        """Read one delta, decoding its positions on `device`."""
        ...

    def origin(self, name: str) -> str:
        """Checkpoint name of a weight: what alphas per component and block are looked up by."""
        ...


class MemoryWeights(dict[str, SparseDelta]):
    """Deltas held in memory."""

    def shape(self, name: str) -> Shape:
        return self[name].shape

    def count(self, name: str) -> int:
        return self[name].count

    def read(self, name: str, device: torch.device | str = "cpu") -> SparseDelta:
        return self[name].to(device)

    def origin(self, name: str) -> str:
        return name


@dataclass(frozen=True, eq=False)
class Adapter:
    """A SHiRA adapter: header and weights, in memory or backed by a file (`path`).

    Equal to itself alone, so that what was made of an adapter can be kept by it.
    """

    header: Header
    weights: Weights
    path: Path | None = None

    @property
    def entries(self) -> int:
        """Number of trained entries in all weights."""
        return sum(self.weights.count(name) for name in self.weights)

    def save(
        self, path: str | Path, *, overwrite: bool = False, dtype: torch.dtype | None = None
    ) -> Path:
        """Write a `.shira` file atomically and return its path; see `file.write`."""
        from .file import write

        return write(self, path, overwrite=overwrite, dtype=dtype)

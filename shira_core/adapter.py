"""An adapter in memory: a header that describes it and the sparse delta of each weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from .mask import Shape, SparseDelta

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Header:
    """What a person or a host wants to know before it reads a single weight.

    architecture: "sd15", "sdxl", "sd15-compact", ... or "unknown" (see `names.detect`).
    base: name of the base model; base_sha256: hash of its file, lower-case hex, or "".
    prediction_type: "epsilon", "v_prediction" or "".
    mask, density, seed: how the entries were chosen.
    triggers: words that a prompt needs to call the style.
    training: summary of the training run (steps, learning rate, pictures...), JSON values.
    extra: other metadata of the file, kept as it is ("modelspec.*", "ss_*", previews...).
    """

    architecture: str = "unknown"
    base: str = ""
    base_sha256: str = ""
    prediction_type: str = ""
    mask: str = ""
    density: float | None = None
    seed: int | None = None
    triggers: tuple[str, ...] = ()
    title: str = ""
    author: str = ""
    description: str = ""
    license: str = ""
    tags: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)
    version: int = FORMAT_VERSION


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


class MemoryWeights(dict[str, SparseDelta]):
    """Deltas held in memory."""

    def shape(self, name: str) -> Shape:
        return self[name].shape

    def count(self, name: str) -> int:
        return self[name].count

    def read(self, name: str, device: torch.device | str = "cpu") -> SparseDelta:
        return self[name].to(device)


@dataclass(frozen=True)
class Adapter:
    """A SHiRA adapter: header and weights, in memory or backed by a file (`path`)."""

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

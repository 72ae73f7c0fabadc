"""Adapters below the roots: what they are, how they go together, mixing and baking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .roots import Roots

Progress = Callable[[int, int], None]
Stack = Sequence[tuple[Path, float]]


@dataclass(frozen=True)
class Card:
    """A file that may be an adapter. problem: why it is none, in one line, or ""."""

    path: Path
    title: str
    architecture: str
    triggers: tuple[str, ...]
    mask: str
    entries: int
    size: int
    problem: str


@dataclass(frozen=True)
class Comparison:
    """How adapters interfere. text: figures and advice, a line per pair. picture: a heat map."""

    names: tuple[str, ...]
    text: str
    picture: Image.Image


def adapters(roots: Roots) -> list[Card]:
    """Return all adapters below the roots."""
    raise NotImplementedError


def details(path: Path) -> dict[str, object]:
    """Return all that a file says of itself; raises FileInvalid."""
    raise NotImplementedError


def preview(path: Path) -> bytes | None:
    """Return the picture in a file, None without one."""
    raise NotImplementedError


def compare(paths: Sequence[Path], progress: Progress | None = None) -> Comparison:
    """Compare two or more adapters."""
    raise NotImplementedError


def mix_preview(stack: Stack, mode: str = "sum") -> str:
    """Return what `mix` would write, as text."""
    raise NotImplementedError


def mix(stack: Stack, out: Path, mode: str = "sum", title: str = "") -> Path:
    """Write one adapter made of several."""
    raise NotImplementedError


def bake(checkpoint: Path, out: Path, stack: Stack, progress: Progress | None = None) -> Path:
    """Write a checkpoint with adapters added."""
    raise NotImplementedError


def finish(
    path: Path, triggers: Sequence[str], preview: Image.Image | None = None, title: str = ""
) -> Path:
    """Write trigger words, a preview and a title into an adapter, atomically."""
    raise NotImplementedError


def copy(path: Path, folder: Path) -> Path:
    """Copy an adapter into a host's folder; raises FileExists."""
    raise NotImplementedError

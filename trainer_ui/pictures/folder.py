"""A folder of pictures with captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .edit import Edit

Size = tuple[int, int]


@dataclass(frozen=True)
class Item:
    """A picture. name: its path below the folder. size: None when it cannot be read.

    problems: lines, first the gravest.
    """

    name: str
    path: Path
    caption: str | None
    size: Size | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Statistics:
    """A folder in numbers; `looked` of the pictures have been opened so far.

    per_epoch: pictures with their repeats. problems: how many pictures have each kind:
    "unreadable", "tiny", "duplicate", "no caption", "caption unreadable".
    notes: lines on files that are not trained.
    """

    pictures: int
    looked: int
    per_epoch: int
    captioned: int
    prompts: int
    tags: int
    longest: str
    problems: Mapping[str, int]
    notes: tuple[str, ...]


class Folder:
    """The pictures of a folder, by the trainer's own rules (docs/training.md).

    It is listed at once; sizes and likeness are looked at by a thread, in the order of the names.
    resolution: what a picture is too small for. Raises DataInvalid when there are no pictures.
    """

    def __init__(self, path: Path, resolution: int = 512) -> None:
        self.path, self.resolution = path, resolution

    def __len__(self) -> int:
        raise NotImplementedError

    def items(self, page: int, size: int = 50, problem: str = "") -> tuple[Item, ...]:
        """Return the pictures of a page, 0 for the first; `problem`: only those with this kind."""
        raise NotImplementedError

    def write(self, name: str, caption: str) -> Item:
        """Write the caption of a picture atomically."""
        raise NotImplementedError

    def prepend(self, words: str) -> Edit:
        """Return the edit that puts words, a trigger, before every caption that lacks them."""
        raise NotImplementedError

    def replace(self, old: str, new: str) -> Edit:
        """Return the edit that puts `new` in the place of `old`, wherever it is in a caption."""
        raise NotImplementedError

    def apply(self, edit: Edit) -> int:
        """Make an edit; return how many captions it changed."""
        raise NotImplementedError

    def undo(self) -> int:
        """Take the last edit back, also after a restart; return how many captions it changed."""
        raise NotImplementedError

    def tags(self) -> list[tuple[str, int]]:
        """Return all tags with the number of captions, the most frequent first."""
        raise NotImplementedError

    def buckets(self, resolution: int) -> dict[Size, int]:
        """Return in which sizes the pictures that were looked at would be trained, and how many."""
        raise NotImplementedError

    def statistics(self) -> Statistics:
        """Return the folder in numbers, as far as it has been looked at."""
        raise NotImplementedError

    def close(self) -> None:
        """End the thread."""
        raise NotImplementedError

"""What is told of a picture, and of a folder of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .looking import Size


@dataclass(frozen=True)
class Item:
    """A picture. name: its path below the folder. size: None when it cannot be read.

    problems: lines, each with its kind first: "unreadable", "tiny", "duplicate", "no caption",
    "caption unreadable".
    """

    name: str
    path: Path
    caption: str | None
    size: Size | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Statistics:
    """A folder in numbers; `looked` of the pictures have been opened so far.

    per_epoch: pictures with their repeats. prompts, tags: number of different ones. longest: the
    caption with the most words. problems: number of pictures by kind.
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

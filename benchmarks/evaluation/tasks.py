"""What adapters learn, and what they are asked to draw afterwards."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import paths  # noqa: F401
from pictures import splits

STYLES = ("contrast", "blueprint", "riso")
BASE_STYLES = ("noto", "flat", "glossy")
CONTENTS = ("objects-a", "objects-b")
LEARNED_OBJECTS, LEARNED_DRAWINGS = 8, 32
BATCH_OF_PICTURES = 48


@dataclass(frozen=True)
class Asked:
    """One picture: the object and the style that it should show, its prompt, the noise's seed."""

    object: str
    style: str
    prompt: str
    seed: int


def asked(name: str, style: str, repeat: int = 0, prompt: str = "") -> Asked:
    """Ask for an object in a style; the noise depends on what is asked for, not on the method."""
    prompt = prompt or f"{style} style, {name}"
    return Asked(name, style, prompt, zlib.crc32(f"{name}/{style}/{repeat}".encode()))


def new_objects(content: str) -> list[str]:
    """Return the objects of a content task, which the base has never seen."""
    start = CONTENTS.index(content) * LEARNED_OBJECTS
    return splits()["held_out"][start : start + LEARNED_OBJECTS]


def lesson(task: str) -> list[Asked]:
    """Return the pictures that a task is learned from: 32 of a style, or 8 objects in 3 styles."""
    if task in CONTENTS:
        return [asked(name, style) for name in new_objects(task) for style in BASE_STYLES]
    return [asked(name, task) for name in splits()["style_train"][:LEARNED_DRAWINGS]]


def in_style(style: str, split: str, count: int | None = None) -> list[Asked]:
    """Ask for the objects of a split, which the adapter has not seen in this style."""
    return [asked(name, style) for name in splits()[split][:count]]


def new_in(content: str, styles: Sequence[str], first: int = 0) -> list[Asked]:
    """Ask for the new objects in styles, 48 pictures from several noises."""
    names = new_objects(content)
    repeats = BATCH_OF_PICTURES // (len(names) * len(styles))
    return [
        asked(name, style, first + repeat)
        for repeat in range(repeats)
        for name in names
        for style in styles
    ]


def in_both(first: str, second: str, count: int) -> list[Asked]:
    """Ask for objects in two styles at once; the judge is asked for the first one."""
    return [
        asked(name, first, 1, f"{first} style, {second} style, {name}")
        for name in splits()["test"][:count]
    ]


def exam(task: str, final: bool) -> list[Asked]:
    """Return what a task is measured on: validation while settings are chosen, test afterwards."""
    if task in CONTENTS:
        return new_in(task, BASE_STYLES, first=100 if final else 200)
    return in_style(task, "test" if final else "validation")

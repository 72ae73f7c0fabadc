"""Pictures that look alike: a difference hash of the shape, and a few colours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..engine.data.pictures import explained

SIDE = 8  # the hash has SIDE * SIDE bits
DRAFT = (128, 128)  # JPEGs are decoded no larger than needed
COLOURS = 4  # per side
CLEARLY = 2  # levels of grey: less is the noise of a JPEG
BITS, COLOUR = 4, 8  # largest differences of pictures that look alike: bits, mean of 0..255


@dataclass(frozen=True)
class Look:
    """What tells pictures apart. hash: uint64. colours: uint8 (48,)."""

    hash: np.uint64
    colours: np.ndarray


def look(path: Path) -> Look:
    """Decode a picture; raises DataInvalid with the reason for one that is damaged."""
    with explained(), Image.open(path) as file:
        file.draft("RGB", DRAFT)
        picture = ImageOps.exif_transpose(file).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    shown = Image.alpha_composite(white, picture).convert("RGB")
    return Look(_difference_hash(shown), _colours(shown))


def _difference_hash(picture: Image.Image) -> np.uint64:
    """Return a bit for each of 8x8 places: whether the place at its right is clearly lighter."""
    grey = picture.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX)
    levels = np.asarray(grey, dtype=np.int16)
    bits = levels[:, 1:] > levels[:, :-1] + CLEARLY
    return np.packbits(bits).view(np.uint64)[0]


def _colours(picture: Image.Image) -> np.ndarray:
    small = picture.resize((COLOURS, COLOURS), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.uint8).reshape(-1)


class Looks:
    """The looks of up to `count` pictures, by their numbers."""

    def __init__(self, count: int) -> None:
        self._hashes = np.zeros(count, dtype=np.uint64)
        self._colours = np.zeros((count, 3 * COLOURS**2), dtype=np.int16)
        self._known = np.zeros(count, dtype=bool)

    def add(self, number: int, found: Look) -> int | None:
        """Take a picture in; return the first one before that it looks like, None without one."""
        earlier = self._like(number, found)
        self._hashes[number], self._colours[number] = found.hash, found.colours
        self._known[number] = True
        return earlier

    def _like(self, number: int, found: Look) -> int | None:
        apart = (self._hashes[:number] ^ found.hash).view(np.uint8).reshape(number, 8)
        near = np.flatnonzero(
            self._known[:number] & (np.unpackbits(apart, axis=1).sum(axis=1) <= BITS)
        )
        colours = np.abs(self._colours[near] - found.colours).mean(axis=1)
        alike = near[colours <= COLOUR]
        return int(alike[0]) if len(alike) else None

"""How many entries of dense tensors have which magnitude, and where to cut.

A *class* of magnitude is the first 16 bits of a float32 without its sign: each power of two in 256
parts. Counting by class takes one pass over any number of tensors; the exact cut then needs only
the entries of one class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .choice import Choice

CLASSES = 1 << 16
_SHIFT = 15
_CHUNK = 1 << 22  # numbers, which bincount copies as int64 and float64
_DENSITIES = np.logspace(-5, 0, 251)  # where the curve is told


@dataclass(frozen=True)
class Spectrum:
    """Entries and energy by class. counts: int64, energy: float64, both (CLASSES,)."""

    counts: Tensor
    energy: Tensor

    def __add__(self, other: Spectrum) -> Spectrum:
        return Spectrum(self.counts + other.counts, self.energy + other.energy)

    def curve(self) -> tuple[tuple[float, float], ...]:
        """Return (density, carried share of the energy) of the largest entries, rising from 0."""
        counts, energy = (np.cumsum(t.flip(0).numpy()) for t in (self.counts, self.energy))
        if not energy[-1]:
            return ((0.0, 0.0), (1.0, 1.0))
        shares = np.interp(_DENSITIES, [0, *counts / counts[-1]], [0, *energy / energy[-1]])
        return ((0.0, 0.0), *zip(_DENSITIES.tolist(), shares.tolist(), strict=True))


@dataclass(frozen=True)
class Cut:
    """Kept are the entries above `least` in magnitude, and the first `ties` that equal it."""

    least: float
    ties: int


@dataclass(frozen=True)
class Boundary:
    """The class that a cut falls into. rest: what it must give of entries, or of energy."""

    number: int
    rest: float


def empty() -> Spectrum:
    """Return the spectrum of nothing."""
    return Spectrum(
        torch.zeros(CLASSES, dtype=torch.int64), torch.zeros(CLASSES, dtype=torch.float64)
    )


def classes(flat: Tensor) -> Tensor:
    """Return the class of each number of a float32 vector, int32."""
    return (flat.view(torch.int32) & 0x7FFFFFFF) >> _SHIFT


def spectrum(flat: Tensor) -> Spectrum:
    """Return the spectrum of a finite float32 vector."""
    return sum(map(_spectrum, flat.split(_CHUNK)), empty())


def _spectrum(flat: Tensor) -> Spectrum:
    found, squares = classes(flat), flat.double().square()
    return Spectrum(
        torch.bincount(found, minlength=CLASSES),
        torch.bincount(found, weights=squares, minlength=CLASSES),
    )


def boundary(spectrum: Spectrum, choice: Choice) -> Boundary:
    """Return where a choice cuts the entries of a spectrum, ordered by falling magnitude."""
    measure = spectrum.counts.double() if choice.energy is None else spectrum.energy
    reached = measure.flip(0).cumsum(0)
    goal = _goal(choice, float(reached[-1]))
    place = min(int(torch.searchsorted(reached, goal)), CLASSES - 1)
    before = float(reached[place - 1]) if place else 0.0
    return Boundary(CLASSES - 1 - place, goal - before)


def _goal(choice: Choice, total: float) -> float:
    """Return how many entries, or how much energy, are kept; rounded as a mask's budget is."""
    if choice.density is None:
        return (choice.energy or 0.0) * total
    return float(max(1, math.floor(choice.density * total + 1e-6)))


def members(flat: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the magnitudes that occur in a class, rising, and how often: float32, int64."""
    found: tuple[Tensor, Tensor] = torch.unique(
        flat[classes(flat) == number].abs(), return_counts=True
    )
    return found


def cut(magnitudes: Tensor, counts: Tensor, rest: float, choice: Choice) -> Cut:
    """Return the exact cut within a class.

    magnitudes: float32 (n,), rising, with their counts, as `members` gives. rest: of a Boundary.
    """
    if not len(magnitudes):
        return Cut(0.0, 0)
    values, counts = magnitudes.flip(0).double(), counts.flip(0)
    each = torch.ones_like(values) if choice.energy is None else values.square()
    reached = (each * counts).cumsum(0)
    place = min(int(torch.searchsorted(reached, rest)), len(values) - 1)
    missing = rest - (float(reached[place - 1]) if place else 0.0)
    if not values[place]:
        return Cut(0.0, 0)
    ties = math.ceil(missing / float(each[place]) - 1e-9)
    return Cut(float(values[place]), min(max(ties, 1), int(counts[place])))

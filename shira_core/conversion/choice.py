"""How many entries of a dense change an adapter keeps, and what share of the change they carry.

The *energy* of a delta is the sum of its squares; what the kept entries have of it is *captured*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..errors import InvalidValue

Scope = Literal["layer", "global"]
SCOPES: tuple[Scope, ...] = ("layer", "global")
DENSITY = 0.02


@dataclass(frozen=True)
class Choice:
    """The largest entries are kept: a share of them, or as few as carry a share of the energy.

    density: share of the entries, in (0, 1]; energy: share of the energy, in (0, 1]. Exactly one is
    given. scope: of each weight by itself, or of all weights together, which is nearer to the whole
    change at every density (docs/converting.md).
    Raises InvalidValue.
    """

    density: float | None = DENSITY
    energy: float | None = None
    scope: Scope = "global"

    def __post_init__(self) -> None:
        if (self.density is None) == (self.energy is None):
            raise InvalidValue("give a density or an energy, not both")
        share = self.energy if self.density is None else self.density
        word = "energy" if self.density is None else "density"
        if not (isinstance(share, (int, float)) and math.isfinite(share) and 0 < share <= 1):
            raise InvalidValue(f"{word} {share!r} is no share: give a number above 0, at most 1")
        if self.scope not in SCOPES:
            raise InvalidValue(f"scope {self.scope!r} is unknown: choose {' or '.join(SCOPES)}")


@dataclass(frozen=True)
class Share:
    """What was kept of a delta: `entries` of `cells` positions, `captured` of `total` energy."""

    entries: int = 0
    cells: int = 0
    captured: float = 0.0
    total: float = 0.0

    @property
    def share(self) -> float:
        """Captured share of the energy, 0..1; 1 where there was nothing to capture."""
        return min(1.0, self.captured / self.total) if self.total else 1.0  # both are rounded

    @property
    def density(self) -> float:
        """Kept share of the positions, 0..1."""
        return self.entries / self.cells if self.cells else 0.0

    def __add__(self, other: Share) -> Share:
        return Share(
            self.entries + other.entries,
            self.cells + other.cells,
            self.captured + other.captured,
            self.total + other.total,
        )


@dataclass(frozen=True)
class Energy:
    """What was kept of each weight, and what of the change could not be kept at all.

    left_out: changes that an adapter does not hold, by what they are of, in words for people.
    curve: (density, captured share) of the largest entries of all matrices together, rising.
    """

    weights: Mapping[str, Share]
    left_out: Mapping[str, Share]
    curve: tuple[tuple[float, float], ...] = ()

    @property
    def total(self) -> Share:
        """All weights together, without what was left out."""
        return sum(self.weights.values(), Share())

    @property
    def share(self) -> float:
        """Captured share of the energy of all weights."""
        return self.total.share

    def carried(self, density: float) -> float:
        """Return the share of the energy that the largest entries carry at a density."""
        return _at(density, [d for d, _ in self.curve], [s for _, s in self.curve])

    def needed(self, share: float) -> float:
        """Return the density whose largest entries carry a share of the energy."""
        return _at(share, [s for _, s in self.curve], [d for d, _ in self.curve])


def _at(place: float, places: list[float], values: list[float]) -> float:
    """Interpolate linearly."""
    import numpy as np  # not at the top: commands list their options without it

    return float(np.interp(place, places, values))

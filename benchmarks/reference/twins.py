"""Find near twins among objects, by name and by picture: `twins.py --data data`.

Two drawings differ by |a - b| / sqrt(|a|^2 + |b|^2), where a and b are what they put on the white
page, at 32 px: 0 for equal drawings, 1 for drawings that share nothing, whatever the amount of ink.
Two objects are twins in pictures if they differ by less than `LIMIT` in three of the four styles.
The limit lies in a gap: of the objects first chosen, three pairs are below it (0.28 in the third
style: tiger and leopard, ram and ewe, evergreen tree and Christmas tree), the next pair has 0.35.
They are twins in name if their names differ only in words for a person, an age or hair, or in the
time on a clock.

It prints the twins among the objects of `objects.json`, or among all pictures (`--all`), and how
many stay if, in order, an object is left out when it is a twin of one that stays.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from pictures import load_pictures, splits
from torch import Tensor
from torch.nn.functional import avg_pool2d

LIMIT = 0.30
STYLES_ALIKE = 3
POOL = 4
VARIANTS = {"man", "woman", "person", "men", "women", "people", "boy", "girl", "child", "adult"} | {
    "old", "older", "baby", "prince", "princess", "mr.", "mrs.", "mx.", "beard", "bald"
}  # fmt: skip


@dataclass(frozen=True)
class Twins:
    """Two objects and how much their drawings differ, 0..1, in each style."""

    first: str
    second: str
    differences: tuple[float, ...]


def differences(pictures: Tensor) -> Tensor:
    """Return how much drawings differ, float (styles, n, n), of uint8 (n, styles, 3, h, w)."""
    ink = avg_pool2d(1 - pictures.flatten(0, 1).float() / 255, POOL)
    ink = ink.reshape(*pictures.shape[:2], -1).transpose(0, 1)
    power = ink.square().sum(-1)
    both = (power.unsqueeze(1) + power.unsqueeze(2)).clamp(min=1e-9)
    return torch.cdist(ink, ink) / both.sqrt()


def alike(pictures: Tensor) -> Tensor:
    """Return bool (n, n): which drawings are near twins in enough styles; symmetric."""
    in_styles = differences(pictures) < LIMIT
    return in_styles.sum(0) >= min(STYLES_ALIKE, len(in_styles))


def bare(name: str) -> str:
    """Return a name without the words that only tell variants apart."""
    if name.endswith(("\u2019clock", "-thirty")):
        return "clock"
    words = [word for word in name.lower().split() if word not in VARIANTS]
    return "person" if not words or words[-1] == "hair" else " ".join(words)


def near_twins(names: list[str], pictures: Tensor) -> list[Twins]:
    """Return every pair of objects that are twins in pictures or in name, in the order of names.

    pictures: uint8 (n, styles, 3, h, w).
    """
    apart, twins = differences(pictures), alike(pictures).tolist()
    pairs = combinations(range(len(names)), 2)
    return [
        Twins(names[a], names[b], tuple(apart[:, a, b].tolist()))
        for a, b in pairs
        if twins[a][b] or bare(names[a]) == bare(names[b])
    ]


def without_twins(names: list[str], twins: list[Twins]) -> list[str]:
    """Return the objects that stay: each, in order, unless it is a twin of one that stays."""
    kept: list[str] = []
    for name in names:
        others = {pair.first for pair in twins if pair.second == name}
        if others.isdisjoint(kept):
            kept.append(name)
    return kept


def main() -> None:
    """Print the twins and how many objects stay without them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder written by data.py")
    parser.add_argument("--all", action="store_true", help="look at all pictures")
    options = parser.parse_args()
    names, pictures = load_pictures(options.data)
    if not options.all:
        wanted = [*splits()["base"], *splits()["held_out"]]
        pictures, names = pictures[[names.index(name) for name in wanted]], wanted
    twins = near_twins(names, pictures)
    for pair in twins:
        print(pair.first, "|", pair.second, *(f"{value:.2f}" for value in pair.differences))
    stay = len(without_twins(names, twins))
    print(f"{len(twins)} pairs of twins among {len(names)} objects; {stay} stay without them")


if __name__ == "__main__":
    main()

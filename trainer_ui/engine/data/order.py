"""Which pictures a batch holds: a pure function of seed and number, so that runs resume exactly.

A *view* is one way that a picture is shown: a cut of it, mirrored or not. All views of a bucket
form a *group*, which is gone through in a new order each epoch, without end. A batch takes the next
ones of one group. A cycle has as many batches as there are views, and each group gets as many of
them as it has views: every view is seen equally often, and every batch is full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from ..objective import generator
from .buckets import Size
from .dataset import Example


@dataclass(frozen=True)
class View:
    """A way to show a picture. example: its number. cut: 0, 1...; flipped: mirrored."""

    example: int
    cut: int = 0
    flipped: bool = False


def views(examples: Sequence[Example], cuts: int = 1, flip: bool = False) -> tuple[View, ...]:
    """Return all views, each as often as its picture counts, and as many of class images as others.

    The fewer ones of the two kinds are repeated (DreamBooth trains both side by side).
    """
    every = [
        View(number, cut, flipped)
        for flipped in ((False, True) if flip else (False,))
        for cut in range(cuts)
        for number, example in enumerate(examples)
        for _ in range(example.repeats)
    ]
    kept = [view for view in every if examples[view.example].is_class]
    learned = [view for view in every if not examples[view.example].is_class]
    if not kept or not learned:
        return tuple(every)
    longer = max(len(kept), len(learned))
    return tuple(part[i % len(part)] for part in (learned, kept) for i in range(longer))


def groups(views: Sequence[View], examples: Sequence[Example]) -> tuple[tuple[int, ...], ...]:
    """Return the numbers of the views of each bucket, buckets in order of their size."""
    found: dict[Size, list[int]] = {}
    for number, view in enumerate(views):
        found.setdefault(examples[view.example].bucket, []).append(number)
    return tuple(tuple(found[bucket]) for bucket in sorted(found))


def pick(seed: int, number: int, size: int, groups: Sequence[Sequence[int]]) -> list[int]:
    """Return the views of batch `number`, which may be negative; all are of one group."""
    counts = tuple(len(group) for group in groups)
    cycle, place = divmod(number, sum(counts))
    turns = _turns(seed, cycle, counts)
    chosen = turns[place]
    first = (cycle * counts[chosen] + turns[:place].count(chosen)) * size
    return [
        groups[chosen][
            _order(seed, chosen, i // counts[chosen], counts[chosen])[i % counts[chosen]]
        ]
        for i in range(first, first + size)
    ]


@lru_cache(maxsize=4)
def _turns(seed: int, cycle: int, counts: tuple[int, ...]) -> list[int]:
    """Return the group of each batch of a cycle."""
    every = [group for group, count in enumerate(counts) for _ in range(count)]
    return [every[place] for place in _shuffled(len(every), seed, "buckets", cycle)]


@lru_cache(maxsize=64)
def _order(seed: int, group: int, epoch: int, count: int) -> list[int]:
    return _shuffled(count, seed, f"order {group}", epoch)


def _shuffled(count: int, seed: int, purpose: str, number: int) -> list[int]:
    return torch.randperm(count, generator=generator(seed, purpose, number)).tolist()

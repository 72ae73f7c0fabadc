"""Shares with their intervals, ranks and groups, for tables and figures.

Intervals are 95 %, from 2,000 bootstrap samples of the objects that were drawn; all styles, noises
and seeds of an object stay together, since they share its difficulty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLES = 2000
Statistic = Callable[[NDArray[np.intp]], float]


def interval(statistic: Statistic, count: int) -> tuple[float, float, float]:
    """Return a statistic of all objects and its 95 % interval over resampled ones."""
    draw = np.random.default_rng(0)
    values = [statistic(draw.integers(count, size=count)) for _ in range(SAMPLES)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return statistic(np.arange(count)), float(low), float(high)


def percent(statistic: Statistic, count: int) -> str:
    """Return a share with its interval, in percent."""
    value, low, high = interval(statistic, count)
    return f"{whole(value)} ({low * 100:.0f}-{high * 100:.0f})"


def whole(share: float) -> str:
    """Return a share in percent, without the sign."""
    return f"{100 * share:.0f}"


def mean_of(values: NDArray[np.floating]) -> Statistic:
    """Return the mean over records of values (records, objects), for chosen objects."""
    per_object = values.mean(0)
    return lambda chosen: float(per_object[chosen].mean())


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation; ties share their mean rank."""
    ranks = [_ranks(np.asarray(values)) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: NDArray[np.floating]) -> NDArray[np.floating]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def grouped(items: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    """Return items by key, keys in the order of their first items."""
    found: dict[Any, list[Any]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return dict(found)

"""What the records say: accuracy alone and added up, and what adapters have in common.

Two measures of an answer: is it right as a whole, and the share of its characters that are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import text
from methods import METHODS
from numpy.typing import NDArray
from plan import Record, chosen, searched

DRAWS = 1000
Numbers = NDArray[np.int64]
Wrong = dict[str, Numbers]  # by task: characters that are wrong, (seeds, examples)
Measure = Callable[[Wrong, Numbers, Numbers], float]  # of some seeds and examples
LENGTHS = {
    task: np.array([len(each.answer) + 1 for each in text.split(task)["test"]])
    for task in text.TASKS
}


@dataclass(frozen=True)
class Group:
    """A method at a rank and its chosen rate: all seeds, alone and in each mix of tasks."""

    method: str
    rank: int
    rate: float
    records: list[Record]

    @property
    def label(self) -> str:
        return self.method if self.method == "full" else f"{self.method}, {self.rank}"

    @cached_property
    def alone(self) -> Wrong:
        """Each task by its own adapter."""
        singles = [each for each in self.records if "task" in each]
        return {t: _wrong([e for e in singles if e["task"] == t], t) for t in text.TASKS}

    @cached_property
    def mixes(self) -> dict[tuple[str, ...], Wrong]:
        """Each task of a mix by the mix, by the mix's tasks."""
        mixed = [each for each in self.records if "tasks" in each]
        found = {}
        for tasks in dict.fromkeys(tuple(each["tasks"]) for each in mixed):
            own = [each for each in mixed if tuple(each["tasks"]) == tasks]
            found[tasks] = {task: _wrong(own, task) for task in tasks}
        return found

    @property
    def shape(self) -> tuple[int, int]:
        """Number of seeds and of examples of a task."""
        seeds, examples = next(iter(self.alone.values())).shape
        return seeds, examples

    def mean(self, name: str) -> float:
        """Return the mean of a figure over the adapters."""
        return float(np.mean([each[name] for each in self.records if "task" in each]))

    def pairs(self) -> list[Record]:
        """Return the mixes of two, with what the two have in common."""
        return [each for each in self.records if len(each.get("tasks", ())) == 2]


def _wrong(records: Sequence[Record], task: str) -> Numbers:
    return np.array([[int(digit) for digit in each["wrong"][task]] for each in records])


def groups(records: Sequence[Record]) -> Iterator[Group]:
    """Yield each method at each rank."""
    order = list(METHODS)
    kinds = {(each["rank"], order.index(each["method"])) for each in records}
    for rank, number in sorted(kinds):
        rate = chosen(searched(records, order[number], rank))
        wanted = (order[number], rank, rate)
        own = [e for e in records if (e["method"], e["rank"], e["rate"]) == wanted]
        yield Group(*wanted, sorted(own, key=lambda each: each["seed"]))


def exact(wrong: Wrong, seeds: Numbers, examples: Numbers) -> float:
    """Return the share of answers that are right as a whole, as a mean over tasks."""
    return float(np.mean([(each[seeds][:, examples] == 0).mean() for each in wrong.values()]))


def characters(wrong: Wrong, seeds: Numbers, examples: Numbers) -> float:
    """Return the share of characters that are right, as a mean over tasks."""
    shares = [
        1 - (each[seeds][:, examples] / LENGTHS[task][examples]).mean()
        for task, each in wrong.items()
    ]
    return float(np.mean(shares))


def kept(group: Group, count: int, measure: Measure) -> Callable[[Numbers, Numbers], float]:
    """Return what mixes of `count` adapters keep: added / alone, of the same tasks."""
    mixes = [mix for tasks, mix in group.mixes.items() if len(tasks) == count]

    def statistic(seeds: Numbers, examples: Numbers) -> float:
        before = [
            measure({task: group.alone[task] for task in mix}, seeds, examples) for mix in mixes
        ]
        after = [measure(mix, seeds, examples) for mix in mixes]
        return float(np.mean(after) / np.mean(before)) if np.mean(before) else float("nan")

    return statistic


def whole(shape: tuple[int, int]) -> tuple[Numbers, Numbers]:
    """Return all seeds and all examples, once."""
    return np.arange(shape[0]), np.arange(shape[1])


def interval(
    statistic: Callable[[Numbers, Numbers], float], shape: tuple[int, int]
) -> tuple[float, float, float]:
    """Return a statistic and its 95 % interval, by bootstrap over seeds and examples."""
    draw = np.random.default_rng(0)
    samples = [
        statistic(*(draw.integers(count, size=count) for count in shape)) for _ in range(DRAWS)
    ]
    low, high = np.nanquantile(samples, [0.025, 0.975])
    return statistic(*whole(shape)), float(low), float(high)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's coefficient; equal values share their mean rank."""
    places = []
    for values in (np.array(a), np.array(b)):
        below = (values[:, None] > values).sum(1)
        places.append(below + (values[:, None] >= values).sum(1))
    return float(np.corrcoef(*places)[0, 1])

"""Which adapters are still to be learned, and which mixes to be measured, given what is there.

Learning rates are searched per method and rank, by the mean validation accuracy over all tasks with
seed 0: three neighbouring rates, and further ones while the best lies at an end of those tried. Of
rates that are about as good as the best one, the lowest is taken: it changes the base least.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from statistics import fmean
from typing import Any

import text
from methods import METHODS, Job

Record = dict[str, Any]
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
FIRST = {"full": 1e-3, "lora": 1e-2, "dora": 1e-2}  # the middle of the first three
FIRST_SPARSE = 3e-2
AS_GOOD = 0.02  # accuracy
SAME_RATE = {"struct-apart": "struct", "wm-apart": "wm"}  # not searched again


@dataclass(frozen=True)
class Mix:
    """Adapters of several tasks, added up."""

    method: str
    rank: int
    seed: int
    rate: float
    tasks: tuple[str, ...]

    @property
    def jobs(self) -> list[Job]:
        return [Job(self.method, self.rank, task, self.seed, self.rate) for task in self.tasks]

    @property
    def key(self) -> str:
        return f"{self.method}-r{self.rank}-{'+'.join(self.tasks)}-s{self.seed}-lr{self.rate:g}"


def pending(
    records: Iterable[Record], ranks: Sequence[int], seeds: int
) -> tuple[list[Job], list[Mix]]:
    """Return what can be done next; nothing when all is there."""
    done = {record["key"]: record for record in records}
    jobs: list[Job] = []
    mixes: list[Mix] = []
    for rank, method in product(ranks, METHODS):
        if method == "full" and rank != ranks[0]:  # it has no rank
            continue
        scores = searched(done.values(), method, rank)
        rates = next_rates(method, scores)
        if rates or not scores:
            if method not in SAME_RATE:
                jobs += [Job(method, rank, task, 0, rate) for rate in rates for task in text.TASKS]
            continue
        rate = chosen(scores)
        for seed in range(seeds):
            own = [Job(method, rank, task, seed, rate) for task in text.TASKS]
            jobs += own
            if all(job.key in done for job in own):
                mixes += [
                    Mix(method, rank, seed, rate, tasks)
                    for count in (2, 3)
                    for tasks in combinations(text.TASKS, count)
                ]
    left = [job for job in jobs if job.key not in done]
    return left, [mix for mix in mixes if mix.key not in done]


def searched(records: Iterable[Record], method: str, rank: int) -> dict[float, float]:
    """Return the mean validation accuracy of each rate at which all tasks were learned."""
    found: dict[float, list[float]] = {}
    wanted = (SAME_RATE.get(method, method), rank, 0)
    for record in records:
        if (record["method"], record["rank"], record["seed"]) == wanted and "task" in record:
            found.setdefault(record["rate"], []).append(record["validation"])
    return {rate: fmean(each) for rate, each in found.items() if len(each) == len(text.TASKS)}


def next_rates(method: str, scores: dict[float, float]) -> list[float]:
    """Return the rates to try next; none when those beside the chosen one have been tried."""
    middle = RATES.index(FIRST.get(SAME_RATE.get(method, method), FIRST_SPARSE))
    first = [rate for rate in RATES[middle - 1 : middle + 2] if rate not in scores]
    if first:
        return first
    best = RATES.index(chosen(scores))
    return [rate for rate in RATES[max(0, best - 1) : best + 2] if rate not in scores]


def chosen(scores: dict[float, float]) -> float:
    """Return the lowest rate that is about as good as the best one."""
    best = max(scores.values())
    return min(rate for rate, score in scores.items() if score >= best - AS_GOOD)

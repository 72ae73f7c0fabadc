"""What every pair of a stack does to each other: overlap at once, AWOR and AWOM on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any
from weakref import WeakKeyDictionary

from .adapter import Adapter
from .interference import Report, advice_on, compare, shared_entries
from .plan import Entry

Step = Callable[[], None]


@dataclass(frozen=True)
class Pair:
    """Two adapters of a stack, by their places in it. awor and awom only where measured."""

    first: int
    second: int
    overlap: float
    report: Report | None = None


_KNOWN: WeakKeyDictionary[Adapter, WeakKeyDictionary[Adapter, Report]] = WeakKeyDictionary()


def overlaps(stack: Sequence[Entry], step: Step) -> list[Pair]:
    """Return the share of common entries of each pair; `step` is called for every weight read."""
    pairs = []
    for i, j in combinations(range(len(stack)), 2):
        a, b = stack[i].adapter, stack[j].adapter
        pairs.append(Pair(i, j, _overlap(a, b, step)))
    return pairs


def measured(stack: Sequence[Entry], step: Step) -> list[Pair]:
    """Return AWOR and AWOM, too: a minute for a pair of SD1.5, once for two files.

    Raises ShapeMismatch for adapters of different architectures.
    """
    found = []
    for i, j in combinations(range(len(stack)), 2):
        report = _report(stack[i].adapter, stack[j].adapter, step)
        found.append(Pair(i, j, report.overlap, report))
    return found


def _overlap(a: Adapter, b: Adapter, step: Step) -> float:
    shared = 0
    for name in a.weights:
        if name in b.weights:
            step()
            shared += shared_entries(a.weights.read(name).positions, b.weights.read(name).positions)
    return shared / max(1, min(a.entries, b.entries))


def _report(a: Adapter, b: Adapter, step: Step) -> Report:
    first, second = sorted((a, b), key=id)
    known = _KNOWN.setdefault(first, WeakKeyDictionary())
    if second not in known:
        known[second] = compare(first, second, progress=lambda *_: step())
    return known[second]


def text(stack: Sequence[Entry], pairs: Sequence[Pair], skipped: Sequence[str] = ()) -> str:
    """Return figures and advice for a person."""
    lines = [f"{title(entry)}: {entry.adapter.entries:,} entries" for entry in stack]
    for pair in pairs:
        names = f"{title(stack[pair.first])} + {title(stack[pair.second])}"
        lines.append(f"{names}: overlap {pair.overlap:.2%}{_figures(pair)}; {_advice(pair)}")
    lines += [f"off: {name}" for name in skipped]
    return "\n".join(lines or ["no adapter is on: the model is unchanged"])


def title(entry: Entry) -> str:
    """Return how a person knows an adapter."""
    adapter = entry.adapter
    return adapter.path.stem if adapter.path else adapter.header.title or "adapter"


def _figures(pair: Pair) -> str:
    report = pair.report
    return f", AWOR {report.awor:.2%}, AWOM {report.awom:.3g}" if report else ""


def _advice(pair: Pair) -> str:
    if pair.report:
        return pair.report.advice
    return advice_on(pair.overlap) or "few common entries: mix freely"


def steps(stack: Sequence[Entry]) -> int:
    """Return how often `step` will be called."""
    known: Any = combinations((set(entry.adapter.weights) for entry in stack), 2)
    return sum(len(first & second) for first, second in known)

"""Write the tables and figures of `docs/evaluation.md` from `results/vision.jsonl`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paths
import tables
from estimates import grouped, interval, mean_of
from fusion import SUM
from methods import PAPER, TRIED
from plan import DRAWINGS, MIDDLE, NONE, RANKS, Rates, best_rates
from results import Fused, Single, fused, records, singles
from tables import NAMES, name
from tasks import STYLES

DOCS = paths.ROOT / "docs"
PAGE, RESULTS = DOCS / "evaluation.md", paths.RESULTS / "vision.jsonl"
LIMITS = (NONE, DRAWINGS, "full")
REFERENCES = ("full", "lora", "wm", "rand")  # beside what was tried
EVERYWHERE = "moved-global"  # the best of what was tried at all sizes
FINE = ("moved-global", "signs-global")


def of(found: Iterable[Single], methods: Collection[str]) -> list[Single]:
    """Return the results of these methods."""
    return [each for each in found if each.method in methods]


def ordered(found: Iterable[Single], rates: Rates) -> list[Single]:
    """Return single results by size, then method: at the best rate, where all styles are there."""
    methods = list(NAMES)
    at_best = [
        each
        for each in found
        if each.method in (NONE, DRAWINGS) or rates[each.method, each.rank, "style"] == each.rate
    ]
    groups = grouped(at_best, lambda each: (each.rank, methods.index(each.method)))
    whole = {key: group for key, group in groups.items() if {e.task for e in group} == {*STYLES}}
    return [each for key in sorted(whole) for each in whole[key]]


def plain(each: Fused) -> bool:
    """Return whether a fusion is one of adapters of the middle size, added up at alpha 1."""
    return each.mode == SUM and each.rank in (0, MIDDLE)


def of_paper(each: Fused) -> bool:
    """Return whether a fusion is what the paper does: plain, of its own methods."""
    return plain(each) and each.method in (*PAPER, "full")


def figure(found: Sequence[Single], fusions: Iterable[Fused], file: Path) -> None:
    """Draw both-right against size, and retention against interference."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    _sizes(left, found)
    pairs = [each for each in fusions if each.pair and plain(each)]
    colours = pyplot.get_cmap("tab20").colors  # type: ignore[attr-defined]
    for number, (label, group) in enumerate(grouped(pairs, lambda each: each.label).items()):
        across = [each.interference["relative"] for each in group]
        kept = [each.retention for each in group]
        right.scatter(across, kept, s=22, label=label, color=colours[number])
    right.set(xlabel="||A^T B|| / (||A|| ||B||)", ylabel="left of two styles")
    right.set_ylim(top=0.75)
    right.legend(fontsize=7, ncols=2, loc="upper right")
    drawn.savefig(file, dpi=100)


def _sizes(axes: Any, found: Sequence[Single]) -> None:
    """Draw both-right with its interval against size, methods a little apart."""
    curves = grouped(of(found, (*PAPER, EVERYWHERE)), lambda each: each.method)
    for number, (method, group) in enumerate(curves.items()):
        points = []
        for rank in RANKS:
            both = np.stack([each.both for each in group if each.rank == rank])
            points.append(interval(mean_of(both), both.shape[1]))
        value, low, high = np.array(points).T
        at = np.array(RANKS) * 1.04 ** (number - len(curves) / 2)
        line = "--" if method in ("lora", "dora") else "-"
        thick = 2.5 if method == EVERYWHERE else 1.2
        axes.errorbar(
            at,
            value,
            [value - low, high - value],
            fmt=line,
            marker="o",
            markersize=4,
            linewidth=thick,
            label=name(method),
        )
    full = np.mean([each.both for each in of(found, ("full",))])
    axes.axhline(float(full), color="grey", linewidth=1, label=name("full"))
    axes.set(xscale="log", xlabel="size, as the rank of a LoRA", ylabel="object and style right")
    axes.set_xticks(RANKS, [str(rank) for rank in RANKS])
    axes.minorticks_off()
    axes.legend(fontsize=8, ncols=2, loc="upper right")
    axes.set_ylim(top=1.02)


def put(text: str, mark: str, table: str) -> str:
    """Return a page with the table between its two marks."""
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}"


def written(text: str, file: Path) -> str:
    """Return the page with its tables made from a file of results."""
    known = records(file)
    rates, fusions = best_rates(known), fused(known, name)
    found = ordered(singles(known), rates)
    added, others = (
        [each for each in fusions if of_paper(each) == is_it] for is_it in (True, False)
    )
    others.sort(key=lambda each: (-each.rank, list(NAMES).index(each.method)))
    pairs = [each for each in fusions if plain(each) and each.pair]
    for mark, table in (
        ("single", tables.single_table(of(found, (*LIMITS, *PAPER)), rates)),
        ("alphas", tables.alpha_table(of(found, ("full", *PAPER, *FINE)))),
        ("tried", tables.single_table(of(found, (*REFERENCES, *TRIED)), rates)),
        ("shuffled", tables.shuffled_table(ordered(singles(known, ("shuffled",)), rates))),
        ("objects", tables.objects_table(known, rates)),
        ("fusion", tables.fusion_table(added)),
        ("remedies", tables.fusion_table(others)),
        ("interference", tables.interference_table(pairs)),
    ):
        text = put(text, mark, table)
    return text


def main() -> None:
    """Read the results; write tables and figure."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")
    known = records(RESULTS)
    found = ordered(singles(known), best_rates(known))
    figure(found, fused(known, name), DOCS / "images" / "evaluation.png")


if __name__ == "__main__":
    main()

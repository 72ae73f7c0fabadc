"""Write the tables and figures of `docs/evaluation.md` from `results/vision.jsonl`.

Intervals are 95 %, from 2,000 bootstrap samples of the objects that were drawn; all styles, noises
and seeds of an object stay together, since they share its difficulty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paths
from numpy.typing import NDArray
from plan import DRAWINGS, MIDDLE, NONE, RANKS, best_rates
from results import Fused, Record, Single, fused, learned_objects, records, singles

DOCS = paths.ROOT / "docs"
PAGE, RESULTS = DOCS / "evaluation.md", paths.RESULTS / "vision.jsonl"
SAMPLES = 2000
CELLS = 2_709_504  # entries of the weights that are adapted
NAMES = {
    NONE: "no adapter",
    DRAWINGS: "true drawings, after the autoencoder",
    "full": "full fine-tune",
    "lora": "LoRA",
    "dora": "DoRA",
    "struct": "SHiRA-Struct",
    "rand": "SHiRA-Rand",
    "wm": "SHiRA-WM",
    "grad": "SHiRA-Grad",
    "snip": "SHiRA-SNIP",
    "wm-dora": "SHiRA-WM-DoRA",
}
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
    return f"{value:.0%}".replace("%", "") + f" ({low * 100:.0f}-{high * 100:.0f})"


def mean_of(values: NDArray[np.floating]) -> Statistic:
    """Return the mean over records of values (records, objects), for chosen objects."""
    per_object = values.mean(0)
    return lambda chosen: float(per_object[chosen].mean())


def single_table(found: Sequence[Single], rates: Mapping[tuple[str, int, str], float]) -> str:
    """One row per method and size: scores on objects that the adapters have not seen."""
    lines = [
        "| size | method | changed % | rate | object % | style % | both % | distance |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for (rank, method), group in grouped(found, lambda each: (each.rank, each.method)).items():
        both = np.stack([each.both for each in group])
        shown = [np.stack([getattr(each, part) for each in group]) for part in ("object", "style")]
        shares = [percent(mean_of(values), both.shape[1]) for values in (*shown, both)]
        apart = float(np.mean([each.distance for each in group]))
        changed = f"{100 * np.mean([each.entries for each in group]) / CELLS:.1f}"
        rate = f"{rates[method, rank, 'style']:g}" if (method, rank, "style") in rates else ""
        size = f"rank {rank}" if rank else ""
        cells = (size, name(method), changed, rate, *shares, f"{apart:.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def alpha_table(found: Sequence[Single]) -> str:
    """Share of pictures with both right, by alpha, at the middle size, seed 0."""
    group = [each for each in found if each.alphas and each.rank in (0, MIDDLE)]
    alphas = sorted({*group[0].alphas, 1.0})
    lines = ["| method | " + " | ".join(f"{alpha:g}" for alpha in alphas) + " |"]
    lines.append("|---|" + "---:|" * len(alphas))
    for method, members in grouped(group, lambda each: each.method).items():
        at = {alpha: [each.alphas[alpha] for each in members] for alpha in members[0].alphas}
        at[1.0] = [each.both[:48] for each in members]
        cells = [f"{np.mean(np.stack(at[alpha])):.0%}" for alpha in alphas]
        lines.append(f"| {name(method)} | {' | '.join(cells)} |".replace("%", ""))
    return "\n".join(lines)


def objects_table(known: Iterable[Record], rates: Mapping[tuple[str, int, str], float]) -> str:
    """One row per method, at the middle size: new objects, drawn by adapters that learned them."""
    lines = ["| method | rate | of styles | object % | both % |", "|---|---:|---:|---:|---:|"]
    found = learned_objects(known)
    for method in filter(found.__contains__, NAMES):
        rank = MIDDLE if (method, MIDDLE, "objects") in rates else 0
        shares = [percent(mean_of(values), values.shape[1]) for values in found[method]]
        own, styles = (f"{rates[method, rank, kind]:g}" for kind in ("objects", "style"))
        lines.append(f"| {name(method)} | {own} | {styles} | {' | '.join(shares)} |")
    return "\n".join(lines)


def fusion_table(found: Sequence[Fused]) -> str:
    """What is left of each part in a fusion, in percent of what the adapter alone gets right."""
    lines = [
        "| method | two styles | three styles | style beside objects | objects beside style "
        "| new object in new style |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for label, group in grouped(found, lambda each: each.label).items():
        cells = [
            retained(group, lambda f: f.pair),
            retained(group, lambda f: f.triple),
            retained(group, lambda f: f.mixed, "style"),
            retained(group, lambda f: f.mixed, "objects"),
            absolute([each for each in group if each.mixed]),
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def retained(group: Iterable[Fused], which: Callable[[Fused], bool], kind: str = "style") -> str:
    """Return the retention: right in the fusion, in percent of right alone."""
    pairs = [pair for each in group if which(each) for pair in each.pairs(kind)]
    if not pairs:
        return ""
    together, alone = (np.stack(values).mean(0) for values in zip(*pairs, strict=True))

    def ratio(chosen: NDArray[np.intp]) -> float:
        return float(together[chosen].sum() / max(alone[chosen].sum(), 1e-9))

    return percent(ratio, len(together))


def absolute(group: Sequence[Fused]) -> str:
    """Return the share of pictures that show the new object in the new style."""
    if not group:
        return ""
    values = np.stack([each.both for each in group])
    return percent(mean_of(values), values.shape[1])


def interference_table(found: Sequence[Fused]) -> str:
    """Interference of pairs of styles beside what is left of them."""
    lines = [
        "| method | AWOM | relative | AWOR | overlap | two styles |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    pairs = [each for each in found if each.pair]
    for label, group in grouped(pairs, lambda each: each.label).items():
        mean = {
            part: float(np.mean([each.interference[part] for each in group]))
            for part in group[0].interference
        }
        lines.append(
            f"| {label} | {mean['awom']:.1f} | {mean['relative']:.3f} | {mean['awor']:.2f} "
            f"| {mean['overlap']:.2f} | {retained(group, lambda f: True)} |"
        )
    sums = [each for each in pairs if each.mode == "sum"]
    left = [each.retention for each in sums]
    told = [
        f"{part} {spearman([each.interference[part] for each in sums], left):+.2f}"
        for part in ("awom", "relative", "awor", "overlap")
    ]
    lines += ["", f"Rank correlation with what is left, {len(sums)} pairs: {', '.join(told)}."]
    return "\n".join(lines)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation; ties share their mean rank."""
    ranks = [_ranks(np.asarray(values)) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: NDArray[np.floating]) -> NDArray[np.floating]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def grouped(items: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    """Return items by key, keys in the order of the methods' names."""
    found: dict[Any, list[Any]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return dict(found)


def name(method: str) -> str:
    """Return a method's name for people."""
    return NAMES.get(method, method)


def ordered(found: Iterable[Single]) -> list[Single]:
    """Return single results by size, then method."""
    methods = list(NAMES)

    def place(each: Single) -> tuple[int, int, str]:
        known = methods.index(each.method) if each.method in methods else len(methods)
        return (RANKS.index(each.rank) if each.rank else -1, known, each.method)

    return sorted(found, key=place)


def figure(found: Sequence[Single], fusions: Sequence[Fused], file: Path) -> None:
    """Draw both-right against size, and retention against interference."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    _sizes(left, found)
    pairs = [each for each in fusions if each.pair]
    colours = pyplot.get_cmap("tab20").colors  # type: ignore[attr-defined]
    for number, (label, group) in enumerate(grouped(pairs, lambda each: each.label).items()):
        across = [each.interference["relative"] for each in group]
        kept = [each.retention for each in group]
        right.scatter(across, kept, s=22, label=label, color=colours[number % len(colours)])
    right.set(xlabel="||A^T B|| / (||A|| ||B||)", ylabel="left of two styles")
    right.legend(fontsize=7, ncols=2)
    drawn.savefig(file, dpi=100)


def _sizes(axes: Any, found: Sequence[Single]) -> None:
    """Draw both-right with its interval against size, methods a little apart."""
    sized = grouped([each for each in found if each.rank], lambda each: each.method)
    curves = {m: g for m, g in sized.items() if {each.rank for each in g} == {*RANKS}}
    for number, (method, group) in enumerate(curves.items()):
        points = []
        for rank in RANKS:
            both = np.stack([each.both for each in group if each.rank == rank])
            points.append(interval(mean_of(both), both.shape[1]))
        value, low, high = np.array(points).T
        at = np.array(RANKS) * 1.04 ** (number - len(curves) / 2)
        line = "--" if method in ("lora", "dora") else "-"
        axes.errorbar(
            at, value, [value - low, high - value], fmt=line, marker="o", label=name(method)
        )
    full = np.mean([each.both for each in found if each.method == "full"])
    axes.axhline(float(full), color="grey", linewidth=1, label=name("full"))
    axes.set(xscale="log", xlabel="size, as the rank of a LoRA", ylabel="object and style right")
    axes.set_xticks(RANKS, [str(rank) for rank in RANKS])
    axes.legend(fontsize=8)


def put(text: str, mark: str, table: str) -> str:
    """Return a page with the table between its two marks."""
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}"


def written(text: str, file: Path) -> str:
    """Return the page with its tables made from a file of results."""
    known = records(file)
    found, fusions = ordered(singles(known)), fused(known, name)
    for mark, table in (
        ("single", single_table(found, best_rates(known))),
        ("alphas", alpha_table(found)),
        ("objects", objects_table(known, best_rates(known))),
        ("fusion", fusion_table(fusions)),
        ("interference", interference_table(fusions)),
    ):
        text = put(text, mark, table)
    return text


def main() -> None:
    """Read the results; write tables and figure."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")
    known = records(RESULTS)
    figure(ordered(singles(known)), fused(known, name), DOCS / "images" / "evaluation.png")


if __name__ == "__main__":
    main()

"""Write the tables and the figure of docs/language-models.md from the results.

    python benchmarks/evaluation/language/report.py
    python benchmarks/evaluation/language/report.py --results tiny.json --docs /tmp/docs

Intervals are of 95 %, by bootstrap over seeds and over the tested examples, which are the same for
every method, alone and added up.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(ROOT), str(HERE)]

import numpy as np  # noqa: E402
import text  # noqa: E402
from scores import (  # noqa: E402
    Group,
    characters,
    exact,
    groups,
    interval,
    kept,
    rank_correlation,
    whole,
)

BEGIN, END = "<!-- results: written by benchmarks/evaluation/language/report.py -->", "<!-- end -->"
MIXED = {2: "two", 3: "three"}
FIGURES = {"overlap": "overlap", "awor": "AWOR", "product": "AWOM", "share": "share"}


def main() -> None:
    """Read results, write page and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE / "results" / "language.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="has the page")
    options = parser.parse_args()
    results = json.loads(options.results.read_text())
    found = list(groups(results["records"]))
    told = "\n\n".join(
        [setting(results), single(found, results["base"]), mixed(found), common(found)]
    )
    page = options.docs / "language-models.md"
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{told}\n{END}{after}")
    draw(found, options.docs / "images" / "language-models.png")


def setting(results: dict[str, Any]) -> str:
    """Return what was trained, in a sentence."""
    size = results["size"]
    return (
        f"Base: {size['layers']} blocks of width {size['width']}, {results['base']['weights']:,} "
        f"weights, {size['base_steps']} steps. Adapters: {size['steps']} steps, "
        f"{results['seeds']} seeds, {size['test']} tested examples of each task. "
        f"On {results['machine']}."
    )


def single(found: Sequence[Group], base: dict[str, Any]) -> str:
    """Return the table of single adapters."""
    head = ["method, rank", "trained", "changed", *text.TASKS, "average", "perplexity", "rate"]
    nothing = [percent(wrong.count("0") / len(wrong)) for wrong in base["wrong"].values()]
    rows = [["none", "0", "0", *nothing, "", f"{base['perplexity']:.2f}", ""]]
    for group in found:
        shares = [percent(group.mean(name) / base["weights"], 2) for name in ("trained", "changed")]
        tasks = [percent(float((each == 0).mean())) for each in group.alone.values()]
        average = ranged(*interval(lambda *at, own=group.alone: exact(own, *at), group.shape))
        perplexity = f"{group.mean('perplexity'):.2f}"
        rows.append([group.label, *shares, *tasks, average, perplexity, f"{group.rate:g}"])
    return table(head, rows)


def mixed(found: Sequence[Group]) -> str:
    """Return the table of adapters added up: %Drop of the paper's Table 4, and characters kept."""
    head = ["method, rank", "alone"]
    head += [f"{name} added" for name in MIXED.values()]
    head += [f"drop, {name}" for name in MIXED.values()]
    head += [f"characters kept, {name}" for name in MIXED.values()]
    rows = []
    for group in found:
        alone = exact(group.alone, *whole(group.shape))
        shares = {count: interval(kept(group, count, exact), group.shape) for count in MIXED}
        letters = {count: interval(kept(group, count, characters), group.shape) for count in MIXED}
        rows.append(
            [group.label, percent(alone)]
            + [percent(added(group, count)) for count in MIXED]
            + [ranged(1 - s[0], 1 - s[2], 1 - s[1]) for s in shares.values()]
            + [ranged(*each) for each in letters.values()]
        )
    return table(head, rows)


def added(group: Group, count: int) -> float:
    """Return the share of right answers of mixes of so many adapters."""
    mixes = [mix for tasks, mix in group.mixes.items() if len(tasks) == count]
    return float(np.mean([exact(mix, *whole(group.shape)) for mix in mixes]))


def common(found: Sequence[Group]) -> str:
    """Return the table of what pairs have in common, and whether it tells what they keep."""
    head = ["method, rank", "overlap", "AWOR", "AWOM: ‖AᵀB‖", "share: ‖AᵀB‖ / ‖A‖‖B‖", "kept"]
    rows = []
    for group in found:
        between = [pair["interference"][0] for pair in group.pairs()]
        means = {name: float(np.mean([each[name] for each in between])) for name in FIGURES}
        figures = [percent(means["overlap"]), percent(means["awor"])]
        figures += [f"{means['product']:.3g}", f"{means['share']:.3f}"]
        left = percent(kept(group, 2, characters)(*whole(group.shape)))
        rows.append([group.label, *figures, left])
    return f"{table(head, rows)}\n\n{prediction(found)}"


def prediction(found: Sequence[Group]) -> str:
    """Return rank correlations of the figures of a pair with what it keeps."""
    left: list[float] = []
    told: dict[str, list[float]] = {name: [] for name in FIGURES}
    for group in found:
        for pair in group.pairs():
            mix = group.mixes[tuple(pair["tasks"])]
            at = np.array([pair["seed"]]), whole(group.shape)[1]
            alone = characters({task: group.alone[task] for task in mix}, *at)
            left.append(characters(mix, *at) / alone)
            for name, values in told.items():
                values.append(pair["interference"][0][name])
    figures = ", ".join(
        f"{FIGURES[name]} {rank_correlation(values, left):+.2f}" for name, values in told.items()
    )
    return f"Rank correlation with the characters kept, over {len(left)} pairs: {figures}."


def draw(found: Sequence[Group], path: Path) -> None:
    """Draw right answers alone, of two and of three added up."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.32 * len(found) + 1.2), layout="constrained")
    places = np.arange(len(found))
    bars = {"alone": [exact(group.alone, *whole(group.shape)) for group in found]}
    bars |= {f"{MIXED[n]} added": [added(group, n) for group in found] for n in MIXED}
    for number, (name, values) in enumerate(bars.items()):
        axes.barh(places + 0.27 * (number - 1), 100 * np.array(values), 0.25, label=name)
    axes.set_yticks(places, [group.label for group in found])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("answers that are right, %")
    figure.legend(loc="outside upper right", ncols=len(bars))
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def ranged(value: float, low: float, high: float) -> str:
    if np.isnan(value):  # nothing was right before
        return "-"
    return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, first column left, others right."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


if __name__ == "__main__":
    main()

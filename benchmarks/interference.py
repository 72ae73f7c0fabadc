"""Interference of random adapters by method and size: the setting of the SHiRA paper's Figure 4.

    python benchmarks/interference.py            # about 6 minutes on two idle cores
    python benchmarks/interference.py --plot     # only redraw figure and table from saved results

Per size and method 50 random adapters, taken as 25 independent pairs; each pair's AWOM and AWOR
(paper, Definitions 1 and 2), averaged. Values are N(0, 1), masks hold 1 % of the weight: with
these the paper's magnitudes come out. What the paper leaves open is chosen here: LoRA has rank
64, and "sparse LoRA" keeps as many random entries of its factors as a 1 % mask has.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from common import DOCS, read_results, save_results
from torch import Tensor

from shira_core.interference import compare_deltas
from shira_core.mask import Mask, SparseDelta

SIZES = (128, 256, 512, 1024, 2048, 4096)
ADAPTERS = 50
DENSITY = 0.01
RANK = 64
BEGIN = "<!-- table: written by benchmarks/interference.py -->"
END = "<!-- end of table -->"

Figures = tuple[float, float]  # AWOM, AWOR
Pair = Callable[[int, torch.Generator], Figures]


def dense(size: int, generator: torch.Generator) -> Figures:
    """Two full fine-tunes: every entry changes."""
    first, second = (torch.randn(size, size, generator=generator) for _ in range(2))
    return dense_figures(first.T @ second)


def lora(size: int, generator: torch.Generator, density: float = 1.0) -> Figures:
    """Two products BA of rank 64; with a density, their factors keep only that share."""
    left, right = [], []
    for _ in range(2):
        left.append(sparse_randn((size, RANK), density, generator))
        right.append(sparse_randn((RANK, size), density, generator))
    return dense_figures(right[0].T @ (left[0].T @ left[1]) @ right[1])


def sparse_lora(size: int, generator: torch.Generator) -> Figures:
    """LoRA whose factors are pruned to the entries of a 1 % mask (2 * 64 * size at most)."""
    return lora(size, generator, min(1.0, DENSITY * size * size / (2 * RANK * size)))


def wm(size: int, generator: torch.Generator) -> Figures:
    """Two SHiRA-WM adapters whose masks come from unrelated weights."""
    return sparse_figures(size, *(top_entries(size, generator) for _ in range(2)))


def wm_same_mask(size: int, generator: torch.Generator) -> Figures:
    """Two SHiRA-WM adapters of one base: the same mask, other values."""
    positions, values = top_entries(size, generator)
    return sparse_figures(size, (positions, values), (positions, shuffled(values, generator)))


def wm_next_percent(size: int, generator: torch.Generator) -> Figures:
    """Two SHiRA-WM adapters of one base that share no entry: first and second best percent."""
    count = int(DENSITY * size * size)
    best = torch.randn(size * size, generator=generator).abs().topk(2 * count).indices
    values = top_entries(size, generator)[1]
    halves = (best[:count].sort().values, best[count:].sort().values)
    return sparse_figures(size, *((half, shuffled(values, generator)) for half in halves))


def struct_rows(size: int, generator: torch.Generator) -> Figures:
    """Two SHiRA-Struct adapters, every 100th row and the diagonal, shifted (paper, Lemma 4.5)."""
    step = round(1 / DENSITY)
    chosen = (torch.arange(start, size, step) for start in (0, step // 2))
    return struct_figures(
        size, [(rows, torch.empty(0, dtype=torch.int64)) for rows in chosen], generator
    )


def struct_random_rows(size: int, generator: torch.Generator) -> Figures:
    """Two SHiRA-Struct adapters whose rows are drawn at random: some pairs share a row."""
    none = torch.empty(0, dtype=torch.int64)
    return struct_figures(size, [(some_lines(size, generator), none) for _ in range(2)], generator)


def struct_random_columns(size: int, generator: torch.Generator) -> Figures:
    """Two SHiRA-Struct adapters with random columns and the diagonal."""
    none = torch.empty(0, dtype=torch.int64)
    return struct_figures(size, [(none, some_lines(size, generator)) for _ in range(2)], generator)


METHODS: dict[str, tuple[str, Pair]] = {
    "dense": ("dense", dense),
    "lora": ("LoRA r=64", lora),
    "sparse_lora": ("sparse LoRA r=64", sparse_lora),
    "wm": ("SHiRA-WM", wm),
    "wm_same_mask": ("SHiRA-WM, same mask", wm_same_mask),
    "wm_next_percent": ("SHiRA-WM, no common entry", wm_next_percent),
    "struct_rows": ("SHiRA-Struct, shifted rows", struct_rows),
    "struct_random_rows": ("SHiRA-Struct, random rows", struct_random_rows),
    "struct_random_columns": ("SHiRA-Struct, random columns", struct_random_columns),
}


def dense_figures(product: Tensor) -> Figures:
    """Return AWOM and AWOR of a product that is there as a whole."""
    zeros = product.numel() - int(product.count_nonzero())
    return float(torch.linalg.norm(product)), zeros / product.numel()


def sparse_figures(size: int, *entries: tuple[Tensor, Tensor]) -> Figures:
    """Return AWOM and AWOR by `shira_core.compare`, from (positions, values) of two adapters."""
    deltas = [SparseDelta(Mask((size, size), at), values) for at, values in entries]
    report = compare_deltas(deltas[0], deltas[1])
    return report.awom, report.awor


def struct_figures(
    size: int, lines: list[tuple[Tensor, Tensor]], generator: torch.Generator
) -> Figures:
    """Return the figures of two adapters that train whole rows, whole columns and the diagonal."""
    entries = []
    for rows, columns in lines:
        cells = torch.eye(size, dtype=torch.bool)
        cells[rows] = True
        cells[:, columns] = True
        positions = cells.flatten().nonzero().flatten()
        entries.append((positions, torch.randn(positions.numel(), generator=generator)))
    return sparse_figures(size, *entries)


def sparse_randn(shape: tuple[int, int], density: float, generator: torch.Generator) -> Tensor:
    values = torch.randn(shape, generator=generator)
    return values * (torch.rand(shape, generator=generator) < density)


def top_entries(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return positions and values of the largest 1 % of a random weight."""
    weight = torch.randn(size * size, generator=generator)
    positions = weight.abs().topk(int(DENSITY * size * size)).indices.sort().values
    return positions, weight[positions]


def shuffled(values: Tensor, generator: torch.Generator) -> Tensor:
    return values[torch.randperm(values.numel(), generator=generator)]


def some_lines(size: int, generator: torch.Generator) -> Tensor:
    """Return 1 % of the rows or columns, at least one, at random."""
    return torch.randperm(size, generator=generator)[: max(1, round(DENSITY * size))].sort().values


def measure(pair: Pair, size: int, pairs: int) -> dict[str, float]:
    """Return averages and the spread of AWOR over independent pairs."""
    figures = [pair(size, torch.Generator().manual_seed(seed)) for seed in range(pairs)]
    awoms, awors = zip(*figures, strict=True)
    return {
        "awom": statistics.fmean(awoms),
        "awor": statistics.fmean(awors),
        "awor_least": min(awors),
        "awor_most": max(awors),
    }


def plot(results: dict, path: Path) -> None:
    """Draw the two panels of Figure 4."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for key, (label, _) in METHODS.items():
        rows = results["methods"][key]
        sizes = [int(size) for size in rows]
        style = {"label": label, "marker": "o", "markersize": 3}
        style["linestyle"] = "--" if key.startswith(("dense", "lora", "sparse")) else "-"
        left.plot(sizes, [row["awom"] for row in rows.values()], **style)
        right.plot(sizes, [row["awor"] for row in rows.values()], **style)
    left.set(xscale="log", yscale="log", title="AWOM (lower: weaker interference)")
    right.set(xscale="log", title="AWOR (higher: nearer to orthogonal)")
    for axes in (left, right):
        axes.set_xticks(SIZES, [str(size) for size in SIZES])
        axes.set_xlabel("size of the square weight")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def write_table(results: dict, page: Path) -> None:
    """Replace the table in docs/interference.md, AWOM and AWOR by method and size."""
    sizes = list(results["methods"]["dense"])
    lines = ["| AWOM, AWOR | " + " | ".join(sizes) + " |", "|---" + "|---:" * len(sizes) + "|"]
    for key, (label, _) in METHODS.items():
        rows = results["methods"][key].values()
        cells = [f"{row['awom']:.3g}, {row['awor']:.1%}" for row in rows]
        lines.append("| " + " | ".join([label, *cells]) + " |")
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text("\n".join([before + BEGIN, *lines, END + after]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=ADAPTERS // 2)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--plot", action="store_true", help="only redraw from saved results")
    args = parser.parse_args()
    picture = DOCS / "images" / "interference.png"
    if not args.plot:
        methods: dict[str, dict] = {key: {} for key in METHODS}
        for size in args.sizes:
            for key, (label, pair) in METHODS.items():
                row = methods[key][str(size)] = measure(pair, size, args.pairs)
                print(
                    f"{size:5}  {label:30} AWOM {row['awom']:10.4g}  AWOR {row['awor']:7.2%}",
                    flush=True,
                )
        save_results("interference", {"pairs": args.pairs, "density": DENSITY, "methods": methods})
    results = read_results("interference")
    plot(results, picture)
    write_table(results, DOCS / "interference.md")


if __name__ == "__main__":
    main()

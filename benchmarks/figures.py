"""The figures and the table of ranks in docs/theory.md.

    python benchmarks/figures.py        # about 40 seconds on one core

Masks come from one step of training on the shipped base each, ranks from the shipped adapters,
times from what `switch.py` has measured.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from common import DOCS, HERE, read_results
from matplotlib.figure import Figure

import shira_core as shira
from shira_core.mask import Mask
from shira_core.masks.request import matrix
from trainer_ui.engine.cli import train_command

ASSETS = HERE.parent / "assets"
IMAGES = DOCS / "images"
LAYER = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
MASKS = {
    "struct": "struct: columns, diagonal",
    "rand": "rand: at random",
    "wm": "wm: largest |W|",
    "grad": "grad: largest |G|",
    "snip": "snip: largest |W * G|",
}
DENSITY = 0.04
ADAPTERS = ("riso", "blueprint")
METHODS = {
    "shira": "SHiRA, random entries",
    "shira-struct": "SHiRA-Struct",
    "lora": "LoRA r = 64, fused",
}
TIMES = {
    "alpha_ms": "new alpha",
    "switch_ms": "other adapter",
    "cold_ms": "from the file",
    "restore_ms": "take it off",
}
WARM = "#d2532b"
COLOURS = ("#5e35b1", "#9575cd", WARM)
BEGIN = "<!-- table: written by benchmarks/figures.py -->"
END = "<!-- end of table -->"


def draw_masks() -> None:
    """One layer's entries under each mask, as `shira train` chooses them."""
    figure = Figure(figsize=(11, 2.6), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, len(MASKS)), MASKS.items(), strict=True):
        axes.imshow(_trained(name).dense(), cmap="Purples", vmax=0.8, interpolation="nearest")
        axes.set_title(label, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    _save(figure, "masks")


def _trained(mask: str) -> Mask:
    """Return the entries of LAYER after one step of training with a mask."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, f"{mask}.shira")
        files = {"base": ASSETS / "base", "images": ASSETS / "samples/contrast", "out": out}
        numbers = {"steps": 1, "resolution": 128, "sample-count": 0, "density": DENSITY}
        options = {**files, **numbers, "trigger": "contrast style", "mask": mask, "device": "cpu"}
        flags = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        if train_command(flags):
            raise SystemExit(1)
        return shira.load(out).weights[LAYER].mask


def draw_ranks() -> None:
    """Singular values of one delta, its best low-rank share, and the table of all layers."""
    delta = shira.load(ASSETS / "adapters" / f"{ADAPTERS[0]}.shira").weights[LAYER].dense()
    values = torch.linalg.svdvals(delta.double())
    energy = values.square().cumsum(0) / values.square().sum()
    rank = round(_lora_rank(delta.shape, int(delta.count_nonzero())))
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = range(1, len(values) + 1)
    left.plot(places, values / values[0], color=COLOURS[0])
    left.set(title="singular values, the largest = 1", xlabel="number", ylim=0)
    right.plot(places, energy, color=COLOURS[0])
    right.set(title="share of the squared change in the first n", xlabel="n", ylim=0)
    for axes in (left, right):
        axes.axvspan(0, rank, color=WARM, alpha=0.5, lw=0, label=f"LoRA of rank {rank} ends here")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right" if axes is right else "upper right")
    _save(figure, "ranks")
    _write_table([_row(name) for name in ADAPTERS])


def _row(name: str) -> str:
    """Return the row of one adapter: medians over all its weights, Convs read as matrices."""
    weights = shira.load(ASSETS / "adapters" / f"{name}.shira").weights
    ranks, shares, equal = [], [], []
    for key in weights:
        delta = weights[key].dense().flatten(1).double()
        values = torch.linalg.svdvals(delta)
        rank = _lora_rank(weights[key].shape, weights[key].count)
        ranks.append(int(torch.linalg.matrix_rank(delta)) / len(values))
        shares.append(float(values[: max(1, round(rank))].square().sum() / values.square().sum()))
        equal.append(rank)
    rank, share, alike = (float(torch.tensor(each).median()) for each in (ranks, shares, equal))
    cells = (f"`{name}.shira`", len(weights), f"{rank:.0%}", f"{alike:.1f}", f"{share:.0%}")
    return "| " + " | ".join(map(str, cells)) + " |"


def _lora_rank(shape: Any, entries: int) -> float:
    """Return the rank of a LoRA that has as many parameters."""
    outputs, inputs, taps = matrix(tuple(shape))
    return entries / (outputs + inputs * taps)


def _write_table(rows: list[str]) -> None:
    page = DOCS / "theory.md"
    head = (
        "| adapter | weights | rank of the delta / highest possible "
        "| LoRA of as many parameters: rank | the delta's squares that the best such LoRA holds |"
    )
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    lines = [before + BEGIN, head, "|---|---:|---:|---:|---:|", *rows, END + rest.partition(END)[2]]
    page.write_text("\n".join(lines), encoding="utf-8")


def draw_switching() -> None:
    """Milliseconds of a full-size SD1.5 UNet, from results/switch.json."""
    results = read_results("switch")["fp32"]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    height = 0.26
    for number, (key, label) in enumerate(METHODS.items()):
        places = [row + (number - 1) * height for row in range(len(TIMES))]
        times = [results[key][name] for name in TIMES]
        bars = axes.barh(places, times, height * 0.9, color=COLOURS[number], label=label)
        axes.bar_label(bars, [f"{time:.0f}" for time in times], padding=3, fontsize=9)
    axes.set_yticks(range(len(TIMES)), list(TIMES.values()))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel="milliseconds", title="SD1.5's UNet, fp32, two CPU cores")
    figure.legend(loc="outside lower center", ncols=len(METHODS))
    _save(figure, "switching")


def _save(figure: Figure, name: str) -> None:
    figure.savefig(IMAGES / f"{name}.png", dpi=110)
    print(f"wrote docs/images/{name}.png")


def main() -> None:
    draw_masks()
    draw_ranks()
    draw_switching()


if __name__ == "__main__":
    main()

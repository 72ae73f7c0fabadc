"""The picture of what was kept of a dense change: by layer, and by density."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..atomic import atomic_write
from ..conversion.choice import Energy
from .choice import grouped


def write_plot(energy: Energy, path: Path, overwrite: bool) -> None:
    """Draw the captured share of each block and the curve of all densities; write a PNG."""
    from matplotlib.figure import Figure

    groups = grouped(energy)
    figure = Figure(figsize=(4 + 0.25 * len(groups) + 4.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[max(4, 0.25 * len(groups)), 4.5])
    _draw_blocks(left, {name: share.share for name, share in groups.items()})
    _draw_curve(right, energy)
    with atomic_write(path, overwrite=overwrite) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _draw_blocks(axes: Any, shares: dict[str, float]) -> None:
    axes.bar(range(len(shares)), list(shares.values()), color="tab:red")
    axes.set_xticks(range(len(shares)), list(shares), rotation=90)
    axes.set_ylim(0, 1)
    axes.set_ylabel("energy kept")
    axes.set_title("by block")
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")


def _draw_curve(axes: Any, energy: Energy) -> None:
    densities, shares = zip(*energy.curve[1:], strict=True)
    axes.plot(densities, shares, color="black", label="largest of all matrices")
    axes.plot([energy.total.density], [energy.share], "o", color="tab:red", label="kept")
    axes.set_xscale("log")
    axes.set_xlim(1e-4, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("density")
    axes.set_title("energy by density")
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.2g}")
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")

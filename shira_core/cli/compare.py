"""`shira compare`: how much adapters interfere, pair by pair."""

from __future__ import annotations

import argparse
import io
import json
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import atomic_write, refuse_existing
from ..errors import InvalidValue, MissingDependency
from .common import say

if TYPE_CHECKING:
    from ..adapter import Adapter
    from ..interference import Report

    Pairs = dict[tuple[int, int], Report]

_EPILOG = """example:
  shira compare ink.shira neon.shira paper.shira --plot interference.png

AWOM  l2 norm of A1^T A2: how strongly two adapters meet (0: not at all)
AWOR  share of zeros in A1^T A2 (100 %: orthogonal)
overlap  common entries / entries of the smaller adapter"""


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "compare",
        help="how much adapters interfere when they are mixed",
        description="Measure how much adapters interfere, for every pair of the given files.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("adapters", nargs="+", metavar="ADAPTER", help="two or more .shira files")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="write a heat map of all pairs")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing heat map")
    parser.add_argument(
        "--json", action="store_true", help="print figures, per weight too, as JSON"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare every pair and print a table (or JSON); optionally write the heat map."""
    from ..file import load

    if len(args.adapters) < 2:
        raise InvalidValue("compare needs two or more adapters: shira compare A.shira B.shira")
    if args.plot:
        refuse_existing(args.plot, args.overwrite)
    adapters = [load(path) for path in args.adapters]
    names = _labels(args.adapters)
    pairs = _compare_all(adapters)
    if args.plot:
        _write(args.plot, _heat_map(names, pairs), args.overwrite)
    say(_as_json(args.adapters, pairs) if args.json else _table(names, pairs))
    return 0


def _compare_all(adapters: list[Adapter]) -> Pairs:
    """Compare every pair of adapters, by their indices."""
    from ..interference import compare

    indices = combinations(range(len(adapters)), 2)
    return {(i, j): compare(adapters[i], adapters[j]) for i, j in indices}


def _labels(paths: list[str]) -> list[str]:
    """Return short names of the files: stems, or the whole paths where stems repeat."""
    stems = [Path(path).stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _table(names: list[str], pairs: Pairs) -> str:
    """Return one line per pair."""
    titles = [f"{names[i]} + {names[j]}" for i, j in pairs]
    width = max(len(title) for title in titles)
    lines = [f"{'pair':{width}}  {'overlap':>8}  {'AWOR':>8}  {'AWOM':>10}  advice"]
    for title, report in zip(titles, pairs.values(), strict=True):
        lines.append(
            f"{title:{width}}  {report.overlap:8.2%}  {report.awor:8.2%}"
            f"  {report.awom:10.4g}  {report.advice}"
        )
    return "\n".join(lines)


def _as_json(paths: list[str], pairs: Pairs) -> str:
    """Return all figures as JSON text."""
    records = [
        {
            "a": str(paths[i]),
            "b": str(paths[j]),
            **_figures(report),
            "advice": report.advice,
            "weights": {name: _figures(weight) for name, weight in report.weights.items()},
        }
        for (i, j), report in pairs.items()
    ]
    return json.dumps(records, indent=2)


def _figures(report: Any) -> dict[str, float]:
    return {"awom": report.awom, "awor": report.awor, "overlap": report.overlap}


def _heat_map(names: list[str], pairs: Pairs) -> bytes:
    """Draw overlap and interference (1 - AWOR) of every pair; return a PNG."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency(
            "--plot needs matplotlib: install it with `pip install matplotlib`"
        ) from error
    side = 2.2 + 0.7 * len(names)
    figure = Figure(figsize=(2 * side + 1, side), layout="constrained")
    axes = figure.subplots(1, 2)
    _draw(axes[0], names, {at: pair.overlap for at, pair in pairs.items()}, "common entries")
    _draw(axes[1], names, {at: 1 - pair.awor for at, pair in pairs.items()}, "1 - AWOR")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw(axes: Any, names: list[str], shares: dict[tuple[int, int], float], title: str) -> None:
    """Draw one symmetric heat map of shares 0..1 with their values in the cells."""
    grid = [[float("nan")] * len(names) for _ in names]
    for (i, j), share in shares.items():
        grid[i][j] = grid[j][i] = share
        for x, y in ((i, j), (j, i)):
            colour = "white" if share > 0.6 else "black"
            axes.text(x, y, f"{share:.1%}", ha="center", va="center", color=colour)
    axes.imshow(grid, vmin=0, vmax=1, cmap="Reds")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_title(title)


def _write(path: Path, content: bytes, overwrite: bool) -> None:
    """Write a file whole or not at all."""
    with atomic_write(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(content)

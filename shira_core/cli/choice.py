"""What commands share that keep the largest entries of a dense change."""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import refuse_existing
from ..conversion.choice import DENSITY, SCOPES, Choice, Energy, Share
from ..errors import MissingDependency
from ..names import block, component
from .common import say

if TYPE_CHECKING:
    import torch

DTYPES = ("float16", "bfloat16", "float32")
_KINDS = ("in", "mid", "out", "double", "single", "joint", "block")
_DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_SHARES = (0.5, 0.9, 0.95, 0.99)


def add_choice(parser: argparse.ArgumentParser, *, adapters: bool = False) -> None:
    """Add --density, --energy, --scope, --plot and --dtype.

    adapters: the command takes adapters too, which stay as they are where nothing is asked for.
    """
    keeps = "all of an adapter, of a LoRA " if adapters else ""
    share = parser.add_mutually_exclusive_group()
    share.add_argument(
        "--density",
        type=float,
        metavar="SHARE",
        help=f"share of the entries that is kept, the largest (default: {keeps}{DENSITY})",
    )
    share.add_argument(
        "--energy",
        type=float,
        metavar="SHARE",
        help="keep as few entries as carry this share of the squared change, e.g. 0.95",
    )
    parser.add_argument(
        "--scope",
        choices=SCOPES,
        default="global",
        help="choose in each weight by itself, or in all together (default: global)",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="PNG", help="draw what layers and densities keep"
    )
    dtype = "as they are, float16 from or to a LoRA" if adapters else "float16"
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default=None if adapters else "float16",
        help=f"of the values (default: {dtype})",
    )


def read_choice(args: argparse.Namespace) -> Choice:
    """Return the choice of --density, --energy and --scope.

    Raises InvalidValue, and what would stop --plot later: FileExists, MissingDependency.
    """
    if args.plot:
        refuse_existing(args.plot, args.overwrite)
        if find_spec("matplotlib") is None:
            raise MissingDependency(
                "--plot needs matplotlib: install it with `pip install matplotlib`"
            )
    density = DENSITY if args.density is None and args.energy is None else args.density
    return Choice(density, args.energy, args.scope)


def read_dtype(args: argparse.Namespace) -> torch.dtype:
    """Return the dtype of --dtype, for `Adapter.save`."""
    import torch

    found: torch.dtype = getattr(torch, args.dtype)
    return found


def show_energy(energy: Energy, args: argparse.Namespace) -> None:
    """Print the table (JSON with args.json) and write args.plot (args.overwrite replaces it)."""
    if args.plot:
        from .energy_plot import write_plot

        write_plot(energy, args.plot, args.overwrite)
    say(json.dumps(energy_json(energy), indent=2) if args.json else energy_table(energy))


def grouped(energy: Energy) -> dict[str, Share]:
    """Return what was kept by block (in4, mid, te1.7...), in the order of the model."""
    found: dict[str, Share] = {}
    for name, share in energy.weights.items():
        group = block(name) or component(name)
        found[group] = found.get(group, Share()) + share
    return dict(sorted(found.items(), key=lambda item: _place(item[0])))


def energy_table(energy: Energy) -> str:
    """Return what was kept of each block and in total, what was not, and what others would."""
    rows = [*grouped(energy).items(), ("total", energy.total)]
    whole = energy.total.total
    lines = [f"{'block':10}  {'entries':>12}  {'density':>8}  {'of change':>9}  {'kept of it':>10}"]
    for name, share in rows:
        part = share.total / whole if whole else 0.0
        lines.append(
            f"{name:10}  {share.entries:12,}  {share.density:8.2%}  {part:9.2%}"
            f"  {share.share:10.2%}"
        )
    lines += [left_line(what, share, whole) for what, share in energy.left_out.items()]
    carried = ", ".join(f"{energy.carried(d):.1%} in {d:.0%}" for d in _DENSITIES)
    needed = ", ".join(f"{s:.0%} needs {energy.needed(s):.1%}" for s in _SHARES)
    return "\n".join(
        [*lines, f"the largest entries of all matrices carry {carried}", f"of the change {needed}"]
    )


def energy_json(energy: Energy) -> dict[str, Any]:
    """Return everything as JSON values."""
    return {
        "total": _figures(energy.total),
        "blocks": {name: _figures(share) for name, share in grouped(energy).items()},
        "layers": {name: _figures(share) for name, share in energy.weights.items()},
        "left_out": {
            name: {"numbers": share.cells, "energy": share.total}
            for name, share in energy.left_out.items()
        },
        "curve": energy.curve,
    }


def _figures(share: Share) -> dict[str, float]:
    return {
        "entries": share.entries,
        "density": share.density,
        "energy": share.total,
        "captured": share.share,
    }


def left_line(what: str, share: Share, whole: float) -> str:
    """Say that something was left out, and how large its change was."""
    size = f", {share.total / (whole + share.total):.1%} of all change" if share.total else ""
    return f"left out: {what} ({share.cells:,} numbers{size})"


def _place(group: str) -> tuple[int, str, int]:
    """Return a key that sorts groups as the model runs: in, mid, out, other blocks, components."""
    kind = group.rstrip("0123456789")
    order = _KINDS.index(kind) if kind in _KINDS else len(_KINDS)
    return order, kind, int(group[len(kind) :] or 0)

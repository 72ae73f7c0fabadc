"""What commands share that keep the largest entries of a dense change."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..conversion.choice import DENSITY, SCOPES, Choice

if TYPE_CHECKING:
    import torch

    from ..conversion.choice import Energy

DTYPES = ("float16", "bfloat16", "float32")


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add --density, --energy, --scope, --plot and --dtype."""
    share = parser.add_mutually_exclusive_group()
    share.add_argument(
        "--density",
        type=float,
        metavar="SHARE",
        help=f"share of the entries that is kept, the largest (default: {DENSITY})",
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
        default="layer",
        help="choose in each weight by itself, or in all together (default: layer)",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="PNG", help="draw the captured energy of layers and densities"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float16", help="of the values (default: float16)"
    )


def read_choice(args: argparse.Namespace) -> Choice:
    """Return the choice of --density, --energy and --scope; raises InvalidValue."""
    density = DENSITY if args.density is None and args.energy is None else args.density
    return Choice(density, args.energy, args.scope)


def read_dtype(args: argparse.Namespace) -> torch.dtype:
    """Return the dtype of --dtype, for `Adapter.save`."""
    import torch

    found: torch.dtype = getattr(torch, args.dtype)
    return found


def show_energy(energy: Energy, args: argparse.Namespace) -> None:
    """Print the table (JSON with args.json) and write args.plot (args.overwrite replaces it)."""
    raise NotImplementedError

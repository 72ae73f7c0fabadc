"""`shira mix`: make one adapter of several."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..modes import MODES
from .common import STACK_HELP, command, read_stack, say, size


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = command(
        subparsers,
        "mix",
        "make one adapter of several",
        "Write one adapter that stands for all the given ones.",
        "shira mix ink.shira:0.8 neon.shira:0.5 -o inkneon.shira",
    )
    parser.add_argument("adapters", nargs="+", metavar="ADAPTER", help=STACK_HELP)
    parser.add_argument("-o", "--out", type=Path, required=True, help="file to write (.shira)")
    parser.add_argument("--mode", default="sum", help=_mode_help())
    parser.add_argument("--title", default="", help="title in the file")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Mix and write."""
    from ..atomic import refuse_existing
    from ..mixing import mix

    refuse_existing(args.out, args.overwrite)
    mixed = mix(read_stack(args.adapters), args.mode, title=args.title or args.out.stem)
    out = mixed.save(args.out, overwrite=args.overwrite)
    say(f"wrote {out} ({size(out.stat().st_size)}, {mixed.entries:,} entries)")
    return 0


def _mode_help() -> str:
    modes = "; ".join(f"{name}: {mode.about}" for name, mode in MODES.items())
    return f"what becomes of entries that several adapters hold (default: sum). {modes}"

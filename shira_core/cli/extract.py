"""`shira extract`: an adapter from a fine-tuned checkpoint and its base."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .choice import add_choice, read_choice, read_dtype, show_energy
from .common import command, say, size


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = command(
        subparsers,
        "extract",
        "make an adapter of a fine-tuned checkpoint and its base",
        "Write the largest changes from BASE to TUNED as an adapter, and show how much of the "
        "change they carry. Both may be checkpoints or diffusers folders.",
        "shira extract tuned.safetensors base.safetensors -o style.shira --density 0.05\n"
        "  shira extract tuned.safetensors base.safetensors -o style.shira --energy 0.95",
    )
    parser.add_argument("tuned", type=Path, metavar="TUNED", help="the fine-tuned model")
    parser.add_argument("base", type=Path, metavar="BASE", help="the model it was tuned from")
    parser.add_argument(
        "-o", "--out", type=Path, help="file to write (default: TUNED's name with .shira, here)"
    )
    add_choice(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument("--json", action="store_true", help="print figures, of layers too, as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Extract, write, and show what was kept."""
    from ..atomic import refuse_existing

    out = args.out or Path(f"{args.tuned.stem}.shira")
    refuse_existing(out, args.overwrite)
    choice = read_choice(args)

    from ..conversion.difference import extract

    progress = show_progress if sys.stderr.isatty() else None
    adapter, energy = extract(args.tuned, args.base, choice, progress=progress)
    adapter.save(out, overwrite=args.overwrite, dtype=read_dtype(args))
    show_energy(energy, args)
    if not args.json:
        say(f"wrote {out} ({size(out.stat().st_size)}, {adapter.entries:,} entries)")
    return 0


def show_progress(done: int, total: int) -> None:
    """Show on a terminal how many weights are done."""
    end = "\n" if done == total else ""
    print(f"\r{done / total:4.0%} of the weights", end=end, file=sys.stderr, flush=True)

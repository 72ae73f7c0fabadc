"""`shira bake`: write a checkpoint with adapters added."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .common import STACK_HELP, command, read_stack, say, size


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = command(
        subparsers,
        "bake",
        "write a merged checkpoint",
        "Write CKPT with adapters added to OUT, streaming: memory for the largest tensor only.",
        "shira bake model.safetensors merged.safetensors ink.shira:0.8 neon.shira:0.5",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="checkpoint (.safetensors)")
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write (.safetensors)")
    parser.add_argument("adapters", nargs="+", metavar="ADAPTER", help=STACK_HELP)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Bake, with progress on a terminal."""
    from ..baking import bake

    stack = read_stack(args.adapters)
    progress = _show if sys.stderr.isatty() else None
    out = bake(args.checkpoint, args.out, stack, overwrite=args.overwrite, progress=progress)
    say(f"wrote {out} ({size(out.stat().st_size)}) with {len(stack)} adapter(s)")
    return 0


def _show(done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\r{done / max(1, total):4.0%} of {size(total)}", end=end, file=sys.stderr, flush=True)

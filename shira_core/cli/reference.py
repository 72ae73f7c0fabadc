"""`shira reference`: the shipped base, or an adapter of it, at SD1.5's full size."""

from __future__ import annotations

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import MissingDependency
from .common import command, say, size


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = command(
        subparsers,
        "reference",
        "write the shipped base at SD1.5's full size, for ComfyUI and WebUIs",
        "Write the shipped compact base as an ordinary SD1.5 checkpoint (float16, 2.1 GB) that "
        "draws the same pictures; with --adapter, an adapter that was trained on the compact base "
        "so that it fits that checkpoint.",
        "shira reference reference.safetensors\n"
        "  shira reference style-full.shira --adapter style.shira",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write")
    parser.add_argument("--adapter", type=Path, metavar="FILE", help="adapter to write instead")
    parser.add_argument("--base", type=Path, metavar="DIR", help="another compact base")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint, with progress on a terminal, or the adapter."""
    if find_spec("trainer_ui") is None:
        raise MissingDependency(
            "the reference base is no part of the core (no trainer_ui): run this from a checkout"
        )
    from trainer_ui.reference.adapter import write_adapter
    from trainer_ui.reference.checkpoint import write_checkpoint
    from trainer_ui.reference.compact import FOLDER, Compact

    base = Compact(args.base or FOLDER)
    if args.adapter:
        from ..file import load

        out = write_adapter(load(args.adapter), base, args.out, overwrite=args.overwrite)
    else:
        progress = _Progress() if sys.stderr.isatty() else None
        out = write_checkpoint(base, args.out, overwrite=args.overwrite, progress=progress)
    say(f"wrote {out} ({size(out.stat().st_size)})")
    return 0


class _Progress:
    """Shows the share that is done and the time that is left."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        left = (time.monotonic() - self._start) * (total - done) / done
        end = "\n" if done == total else ""
        text = f"\r{done / total:4.0%} of {size(total)}, {left:.0f} s left "
        print(text, end=end, file=sys.stderr, flush=True)

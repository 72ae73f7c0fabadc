"""`shira verify`: read every byte of a file, and check that it fits a base."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .common import command, say


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = command(
        subparsers,
        "verify",
        "check every byte of a .shira file, and that it fits a model",
        "Read and check all positions and values of a .shira file and its hash; with --base, that "
        "every weight exists in that checkpoint or diffusers folder with the same shape.",
        "shira verify style.shira --base model.safetensors",
    )
    parser.add_argument("file", type=Path, help=".shira file, or its .safetensors twin")
    parser.add_argument(
        "--base", type=Path, metavar="CKPT", help="checkpoint or diffusers folder that it shall fit"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check the file; raises our error for the first thing that is wrong."""
    from ..file import load
    from ..sound import check_bytes

    adapter = load(args.file)
    hashed = check_bytes(args.file)
    facts: dict[str, Any] = {"weights": len(adapter.weights), "entries": adapter.entries}
    facts |= {"hash": "matches" if hashed else "none in the file"}
    if args.base:
        facts["base"] = _fit(adapter, args.base)
    say(json.dumps(facts) if args.json else _sentence(args.file, facts))
    return 0


def _fit(adapter: Any, base: Path) -> str:
    """Say how the adapter fits a checkpoint; raises WeightMissing or ShapeMismatch."""
    from ..check import check_fit
    from ..conversion.model import open_model

    model = open_model(base)
    check_fit(adapter, model.shapes)
    if not adapter.header.base_sha256:
        return "fits"
    same = model.sha256() == adapter.header.base_sha256
    return (
        "is the model it was trained on" if same else "fits, but is not the one it was trained on"
    )


def _sentence(path: Path, facts: dict[str, Any]) -> str:
    lines = [
        f"{path} is sound: {facts['entries']:,} entries in {facts['weights']} weights, "
        f"hash {facts['hash']}"
    ]
    return "\n".join(lines + ([f"the base {facts['base']}"] if "base" in facts else []))

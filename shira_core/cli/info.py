"""`shira info`: what a file is, from its header alone; no torch, so that it is instant."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import format as layout
from ..header import Header, summary, to_json
from ..names import component, label
from .common import command, say, size, table


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = command(
        subparsers,
        "info",
        "what a .shira file is: architecture, base, trigger words, mask, size",
        "Show what a .shira file says about itself. Reads the header only: `verify` checks all.",
        "shira info style.shira",
    )
    parser.add_argument("file", type=Path, help=".shira file, or its .safetensors twin")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a table for a person, or JSON."""
    found = layout.read(args.file)
    facts = _facts(args.file, found)
    say(json.dumps(facts, indent=2) if args.json else _table(facts))
    return 0


def _facts(path: Path, found: layout.Layout) -> dict[str, Any]:
    """Return the header's fields, and what the layout tells, as JSON values."""
    records = found.records
    entries = sum(record.count for record in records.values())
    cells = sum(math.prod(record.shape) for record in records.values())
    whole = path.stat().st_size
    return {
        "file": str(path),
        "bytes": whole,
        "version": found.header.version,
        **_plain(found.header),
        "layers": len(records),
        "components": _counts(records),
        "entries": entries,
        "share_of_changed_weights": entries / cells,
        "bytes_per_entry": whole / entries,
        "dtypes": sorted({record.values.dtype for record in records.values()}),
        "data_sha256": found.container.metadata.get(layout.HASH, ""),
        "metadata": {k: v for k, v in found.container.metadata.items() if k != layout.KEY},
    }


def _plain(header: Header) -> dict[str, Any]:
    return {"architecture": header.architecture, **to_json(header)}


def _counts(records: Iterable[str]) -> dict[str, int]:
    places = [component(name) for name in records]
    return {place: places.count(place) for place in dict.fromkeys(places)}


def _table(facts: dict[str, Any]) -> str:
    training = facts.get("training", {})
    layers = ", ".join(f"{count} in {place}" for place, count in facts["components"].items())
    chosen = f"{facts['share_of_changed_weights']:.2%} of the changed weights"
    if "density" in facts:
        chosen = f"{facts['density']:.3%} asked for, {chosen}"
    return table(
        [
            (
                "file",
                f"{facts['file']} ({size(facts['bytes'])}, format version {facts['version']})",
            ),
            ("title", facts.get("title", "")),
            ("author", facts.get("author", "")),
            ("architecture", label(facts["architecture"])),
            ("base", facts.get("base", "")),
            ("base SHA-256", facts.get("base_sha256", "")),
            ("prediction", facts.get("prediction_type", "")),
            ("trigger words", ", ".join(facts.get("triggers", ()))),
            ("mask", facts.get("mask", "")),
            ("seed", str(facts.get("seed", ""))),
            ("density", chosen),
            ("layers", f"{facts['layers']} ({layers})"),
            ("entries", f"{facts['entries']:,} as {', '.join(facts['dtypes'])}"),
            ("size", f"{facts['bytes_per_entry']:.2f} bytes per entry"),
            ("data SHA-256", facts["data_sha256"]),
            ("training", ", ".join(f"{key} {summary(value)}" for key, value in training.items())),
            ("description", facts.get("description", "")),
            ("license", facts.get("license", "")),
            ("tags", ", ".join(facts.get("tags", ()))),
        ]
    )

"""`shira pull`: fetch an adapter from a model hub into the folder where it belongs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..errors import InvalidValue
from .common import command, hub_token, quiet_bars, say

MODELS = Path("models") / "shira"
HOME = Path.home() / "shira"  # the trainer's page lists it


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = command(
        subparsers,
        "pull",
        "fetch an adapter from a model hub, checked, into the right folder",
        "Fetch a .shira file (or a .safetensors twin) with its picture and notes, compare its "
        "hashes, read every byte of it, and only then give it its name.",
        "shira pull owner/name --comfyui ~/ComfyUI",
    )
    parser.add_argument("repository", metavar="OWNER/NAME[@REVISION]")
    parser.add_argument("--file", metavar="NAME", help="which, where there are several")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--to", type=Path, metavar="DIR", help="folder (default: ~/shira)")
    where.add_argument("--comfyui", type=Path, metavar="DIR", help="a ComfyUI: its models/shira")
    where.add_argument("--webui", type=Path, metavar="DIR", help="a WebUI: its models/shira")
    parser.add_argument("--overwrite", action="store_true", help="replace files that differ")
    parser.add_argument("--limit", type=float, default=2.0, metavar="GB", help="default: 2")
    parser.add_argument("--token", metavar="VARIABLE", help="environment variable with a token")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fetch, and say where it is."""
    from ..integrations.hub import pull

    repository, _, revision = args.repository.partition("@")
    token, folder = hub_token(args.token), _folder(args)
    quiet_bars()
    pulled = pull(
        repository,
        folder,
        revision=revision or None,
        file=args.file,
        overwrite=args.overwrite,
        limit=int(args.limit * 1e9),
        token=token,
    )
    written, kept = ([str(path) for path in paths] for paths in (pulled.written, pulled.kept))
    if args.json:
        say(json.dumps({"file": str(pulled.adapter), "written": written, "kept": kept}, indent=2))
        return 0
    for path in written:
        say(f"wrote {path}")
    for path in kept:
        say(f"kept {path}, which differs: --overwrite replaces it")
    if pulled.adapter not in pulled.written:
        say(f"already there: {pulled.adapter}")
    return 0


def _folder(args: argparse.Namespace) -> Path:
    """Return the folder that was asked for; a host must have a folder "models"."""
    host: Path | None = args.comfyui or args.webui
    if host is None:
        return (args.to or HOME).expanduser()
    host = host.expanduser()
    if not (host / "models").is_dir():
        raise InvalidValue(f"{host} has no folder models: name the folder of the host itself")
    return host / MODELS

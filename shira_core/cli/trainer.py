"""`shira trainer`: open the trainer's page, which lives outside the core."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from ..errors import InvalidValue, MissingDependency
from .common import command

NEEDED = (
    "gradio",
    "psutil",
    "diffusers",
    "transformers",
    "PIL",
    "pydantic",
    "instant_clip_tokenizer",
)
PORT = 7870
HOME = Path.home() / "shira"


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = command(
        subparsers,
        "trainer",
        "open the trainer's page",
        "Serve the trainer's page: data sets, settings, a queue of trainings, the library. It "
        "reads and writes below the given folders alone, and needs no network.",
        "shira trainer --root ~/shira --root ~/ComfyUI/models",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; others than this need a token"
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}")
    parser.add_argument(
        "--root",
        type=Path,
        action="append",
        metavar="DIR",
        help="folder that it may use, several times; the first is for new files "
        "(default: shira in your home folder)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve; returns the exit code. Raises MissingDependency without the trainer's packages."""
    missing = [name for name in (*NEEDED, "trainer_ui") if find_spec(name) is None]
    if missing:
        raise MissingDependency(
            f'the page needs more packages (no {missing[0]}): pip install "shira[app]", or run '
            "`python install.py trainer`"
        )
    folders = [each.expanduser().absolute() for each in args.root or [HOME]]
    for folder in folders[1:]:
        if not folder.is_dir():
            raise InvalidValue(f"--root {folder} is no folder: make it, or give another one")
    from trainer_ui.app.server import serve

    return serve(args.host, args.port, folders)

"""`shira train`: hand all flags to the trainer, which lives outside the core."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from ..errors import MissingDependency

NEEDED = ("diffusers", "transformers", "PIL", "pydantic", "rich", "instant_clip_tokenizer")


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command. The trainer owns its flags, `--help` too: none is looked at here."""
    parser = subparsers.add_parser(
        "train",
        help="train an adapter on a folder of pictures",
        add_help=False,
        prefix_chars="\0",  # no argument starts with it, so every flag is passed on
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train; returns the exit code. Raises MissingDependency without the trainer's packages."""
    # looked for, not imported: the trainer prepares the process before torch is
    missing = [name for name in (*NEEDED, "trainer_ui") if find_spec(name) is None]
    if missing:
        raise MissingDependency(
            f'training needs more packages (no {missing[0]}): pip install "shira[trainer]"'
        )
    from trainer_ui.engine.cli import train_command

    return train_command(args.arguments)

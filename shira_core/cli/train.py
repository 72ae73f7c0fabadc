"""`shira train`: hand all flags to the trainer, which lives outside the core."""

from __future__ import annotations

import argparse

from ..errors import MissingDependency


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
    try:
        import diffusers  # noqa: F401
        import transformers  # noqa: F401

        from trainer_ui.engine.cli import train_command
    except ImportError as error:
        raise MissingDependency(
            f'training needs more packages ({error}): pip install "shira[trainer]"'
        ) from None
    return train_command(args.arguments)

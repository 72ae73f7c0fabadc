"""The `shira` command. Each command is one module with `add(subparsers)`, imported when needed."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from ..errors import ShiraError
from .common import one_line

COMMANDS = (
    *("info", "verify", "bake", "mix", "extract", "convert"),
    *("compare", "train", "trainer", "reference", "publish", "pull"),
)
INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, or 1 with one line on stderr for our errors (usage: exit 2)."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        try:
            return _run(given)
        finally:
            sys.stdout.flush()
    except ShiraError as error:
        print(f"shira: {one_line(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("shira: stopped; nothing was written", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(given: list[str]) -> int:
    args = _parser(given).parse_args(given)
    code: int = args.run(args)
    return code


def _parser(given: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "shira",
        description="Sparse High Rank Adapters: inspect, apply, mix, compare and train.",
        epilog="example: shira info style.shira (shira COMMAND --help tells more)",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    known = [name for name in given[:1] if name in COMMANDS]
    for name in known or COMMANDS:
        importlib.import_module(f".{name}", __name__).add(commands)
    return parser

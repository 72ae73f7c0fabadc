"""What several commands share."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidValue

if TYPE_CHECKING:
    from ..adapter import Adapter
    from ..alpha import Alpha

# "style.shira:0.8,te=0.5": the last colon that a number or NAME=NUMBER follows.
_WITH_ALPHA = re.compile(r"(.+):((?:[a-z]+[0-9.]*=)?[-+.\d][^:]*)")
STACK_HELP = "FILE[:ALPHA], alpha 1 when left out; also FILE:0.8,te=0.5,mid=0 (components, blocks)"


def command(
    subparsers: Any, name: str, help_text: str, description: str, example: str
) -> argparse.ArgumentParser:
    """Add one command and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=help_text,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def read_stack(arguments: list[str]) -> list[tuple[Adapter, Alpha]]:
    """Open "FILE" or "FILE:ALPHA" arguments; raises our errors for either part."""
    from ..file import load

    return [(load(path), alpha) for path, alpha in map(split_alpha, arguments)]


def split_alpha(argument: str) -> tuple[Path, Alpha]:
    """Return the path and the alpha of "FILE:ALPHA"; a file whose name has that form wins."""
    from ..alpha import Alpha, parse

    found = _WITH_ALPHA.fullmatch(argument)
    if found is None or os.path.exists(argument):
        return Path(argument), Alpha()
    return Path(found[1]), parse(found[2])


def hub_token(variable: str | None) -> str | None:
    """Return the token in an environment variable: on a command line others could read it."""
    if variable is None:
        return None
    token = os.environ.get(variable, "").strip()
    if not token:
        raise InvalidValue(f"--token {variable!r:.60} names no environment variable with a token")
    return token


def quiet_bars() -> None:
    """Turn huggingface_hub's progress bars off where nobody sees them move."""
    if not sys.stderr.isatty():
        from ..integrations.hub.client import library

        library().utils.disable_progress_bars()


def say(text: str) -> None:
    """Print to stdout; characters that its encoding lacks become escapes, not an error."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def one_line(text: str) -> str:
    """Return text without line breaks and control characters, which a file may have put there."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in " ".join(text.splitlines())
    )


def table(rows: list[tuple[str, str]]) -> str:
    """Return lines of aligned labels and values, without empty ones."""
    kept = [(name, value) for name, value in rows if value]
    width = max(len(name) for name, _ in kept)
    return "\n".join(f"{name:{width}}  {one_line(value)}" for name, value in kept)


def size(count: int) -> str:
    """Return a number of bytes for a person."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"

"""Names and texts of a file as Markdown and YAML: whatever they hold, they stay text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

_MARKS = re.compile(r"[\\`*_\[\]#|~$]")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_LIST = re.compile(r"^(\d*)([-+=.)])(?!\w)")  # at the start of a line: lists, rules, underlines


def one_line(value: str) -> str:
    """Return text with single spaces for breaks, and without characters that cannot be seen."""
    return " ".join("".join(c for c in value if c.isprintable() or c.isspace()).split())


def plain(value: object) -> str:
    """Return text as Markdown of one line that shows just this text."""
    shown = _MARKS.sub(r"\\\g<0>", one_line(str(value)))
    shown = re.sub("[&<>]", lambda mark: _HTML[mark[0]], shown)
    return _LIST.sub(r"\1\\\2", shown)


def paragraphs(value: str) -> str:
    """Return text of several lines as Markdown paragraphs that show just this text."""
    return "\n\n".join(line for each in value.splitlines() if (line := plain(each)))


def code(value: str) -> str:
    """Return text as a code span; its fence is longer than any in the text."""
    shown = one_line(value)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    room = " " if "`" in shown else ""
    return f"{fence}{room}{shown}{room}{fence}"


def table(rows: Iterable[tuple[str, object]]) -> str:
    """Return a table of two columns, "" without rows."""
    lines = [f"| {plain(name)} | {plain(value)} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else ""


def front_matter(values: Mapping[str, Any]) -> str:
    """Return a YAML block with the values that are not empty.

    Strings, lists and objects are written as JSON, which YAML reads as the same values: nothing in
    them can end a line or mean a key. Texts must be free of characters that cannot be seen.
    """
    kept = {key: value for key, value in values.items() if value}
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in kept.items()]
    return "\n".join(["---", *lines, "---"])

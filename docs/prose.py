"""For the API pages: lines such as `alpha: a number` in a docstring become a list.

Our docstrings are prose: a sentence of contract, then lines about arguments, then the errors.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

ABOUT = re.compile(r"(?P<names>\w+(?:(?:, | or )\w+)*): (?=\S)")
NEW_PARAGRAPH = ("Raises ", "Memory: ")


class Prose(Extension):
    """Rewrites every docstring once, when its object has been read."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = listed(obj.docstring.value)


def listed(text: str) -> str:
    """Return Markdown in which each line that begins with names and a colon is a list item."""
    lines: list[str] = []
    item = False
    for line in text.splitlines():
        about = ABOUT.match(line)
        ends = item and line.startswith(NEW_PARAGRAPH)
        if lines and lines[-1] and ((about and not item) or ends):
            lines.append("")
        if about:
            names = re.sub(r"\w+", r"`\g<0>`", about["names"]).replace("`or`", "or")
            line = f"- {names}: {line[about.end() :]}"
        elif item and line and not ends:
            line = f"  {line}"
        item = bool(about) or (item and bool(line) and not ends)
        lines.append(line)
    return "\n".join(lines)

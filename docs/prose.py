"""For the API pages: lines such as `alpha: a number` in a docstring become a list.

Our docstrings are prose: a sentence of contract, then lines about arguments, then the errors.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

ABOUT = re.compile(r"^([a-z]\w*(?:(?:, | or )[a-z]\w*)*): (?=\S)", re.MULTILINE)
NAME = re.compile(r"\b(?!or\b)\w+")
ERRORS = re.compile(r"^(?=Raises )", re.MULTILINE)


class Prose(Extension):
    """Rewrites every docstring once, when its object has been read."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = listed(obj.docstring.value)


def listed(text: str) -> str:
    """Return Markdown in which each line that begins with names and a colon is a list item."""
    return ERRORS.sub("\n", ABOUT.sub(_item, text))


def _item(about: re.Match[str]) -> str:
    names = NAME.sub(r"`\g<0>`", about[1])
    return f"\n- {names}: "

"""Programs that write captions: none is part of this one, others may bring some.

A package offers one as an entry point of the group `shira.captioners`: a function that takes the
path of a picture and returns its caption.

    [project.entry-points."shira.captioners"]
    blip = "my_package:caption"
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from shira_core.errors import InvalidValue

GROUP = "shira.captioners"
Captioner = Callable[[Path], str]


def names() -> list[str]:
    """Return the names of all that are installed."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def captioner(name: str) -> Captioner:
    """Return one by its name; raises InvalidValue when it is not there or cannot be loaded.

    Whatever it raises, or returns that is no text, is one InvalidValue with the picture's name.
    """
    function = _loaded(name)

    def caption(path: Path) -> str:
        try:
            text = function(path)
        except Exception as error:  # a stranger's program
            raise InvalidValue(f"{name} cannot caption {path.name}: {error}: see its manual") from (
                error
            )
        if not isinstance(text, str):
            raise InvalidValue(f"{name} gave no text for {path.name}: see its manual")
        return text

    return caption


def _loaded(name: str) -> Any:
    for point in entry_points(group=GROUP, name=name):
        try:
            return point.load()
        except Exception as error:  # a stranger's program
            raise InvalidValue(f"{name} cannot be loaded: {error}: install it again") from error
    known = ", ".join(names()) or "none"
    raise InvalidValue(f"there is no captioner {name!r:.80}: installed are {known}")

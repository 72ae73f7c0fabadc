"""Axes of the X/Y/Z plot: the file and the alpha of the accordion's first row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from modules import scripts

from shira_core.errors import InvalidValue
from shira_core.rows import LIMIT, Row

from ..paths import LIBRARY, find
from ..tag import Tag

LABELS = ("[SHiRA] adapter", "[SHiRA] alpha")
NONE = "None"
_KEY = "shira_axes"


def add() -> None:
    """Add our axes to the X/Y/Z script, once."""
    for found in scripts.scripts_data:
        if PurePath(found.path).name == "xyz_grid.py":
            known = {axis.label for axis in found.module.axis_options}
            found.module.axis_options += [
                axis for axis in _axes(found.module.AxisOption) if axis.label not in known
            ]


def changed(p: Any, tags: Sequence[Tag]) -> list[Tag]:
    """Return a job's rows with the values of its cell in the first one.

    Without a row the adapter makes one; "None" takes the first away.
    """
    values = getattr(p, _KEY, {})
    first, rest = (tags[0] if tags else None), list(tags[1:])
    if "name" in values:
        name = values["name"]
        row = replace(first.row, name=name) if first else Row(name)
        first = None if name == NONE else replace(first or Tag(row), row=row)
    if first and "alpha" in values:
        first = replace(first, row=replace(first.row, alpha=values["alpha"]))
    return [first, *rest] if first else rest


def _axes(option: Any) -> list[Any]:
    adapter, alpha = LABELS
    return [
        option(adapter, str, _apply("name"), confirm=_known, choices=lambda: [NONE, *_names()]),
        option(alpha, float, _apply("alpha"), confirm=_usable),
    ]


def _apply(what: str) -> Callable[[Any, Any, Any], None]:
    def apply(p: Any, value: Any, _: Any) -> None:
        # A cell's job is a shallow copy: its dict must not be the one of the other cells.
        setattr(p, _KEY, {**getattr(p, _KEY, {}), what: value})

    return apply


def _names() -> list[str]:
    return [name.removesuffix(".shira") for name in LIBRARY.names()]


def _known(_: Any, values: Sequence[str]) -> None:
    """Refuse a grid with a file that is not there, before its first picture."""
    for name in values:
        if name != NONE:
            find(name)


def _usable(_: Any, values: Sequence[float]) -> None:
    for value in values:
        if not math.isfinite(value) or abs(value) > LIMIT:
            raise InvalidValue(f"alpha {value} is not between -100 and 100")

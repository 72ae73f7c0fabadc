"""The rows of a stack as pages edit them: files by name, with their alphas."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from .alpha import Alpha, parse
from .errors import InvalidValue, ShiraError
from .header import Header
from .library import Library
from .plan import Entry

LIMIT = 100.0
Stack = tuple[Entry, ...]


@dataclass(frozen=True)
class Row:
    """One adapter of a stack. blocks: factors by block, "mid=0, in4=0.5"."""

    name: str
    on: bool = True
    alpha: float = 1.0
    alpha_te: float | None = None  # None: as alpha
    blocks: str = ""

    def strength(self) -> Alpha:
        """Return the alpha; raises InvalidValue."""
        te = self.alpha if self.alpha_te is None else self.alpha_te
        for number in (self.alpha, te):
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise InvalidValue(f"{self.name}: alpha {number!r} is no number: 0.8, say")
            if not math.isfinite(number) or abs(number) > LIMIT:
                raise InvalidValue(f"{self.name}: alpha {number} is not between -100 and 100")
        own = parse(self.blocks) if self.blocks.strip() else Alpha()
        components = {"te": te * own.value, **own.components}
        return Alpha(self.alpha * own.value, components, own.blocks)

    def entry(self, library: Library) -> Entry:
        """Open the file; raises FileInvalid, InvalidValue."""
        return Entry(library.load(self.name).adapter, self.strength())


_TYPES = {"name": str, "on": bool, "blocks": str}


@dataclass(frozen=True)
class Rows:
    """The rows that are on; `skipped` are the names of the others."""

    rows: tuple[Row, ...]
    skipped: tuple[str, ...] = field(default=())


def read(text: str) -> Rows:
    """Read a JSON list of rows, or lines `name: alpha`; raises InvalidValue.

    A file may occur once among the rows that are on: two would only add up.
    """
    rows = _from_json(text) if text.lstrip().startswith("[") else _from_lines(text)
    used = [row for row in rows if row.on]
    for row in used:
        if [other.name for other in used].count(row.name) > 1:
            raise InvalidValue(f"{row.name} is in several rows: keep one and add the alphas")
    return Rows(tuple(used), tuple(row.name for row in rows if not row.on))


def entries(rows: Rows, library: Library) -> Stack:
    """Open all files; raises FileInvalid, InvalidValue."""
    return tuple(row.entry(library) for row in rows.rows)


def problem(rows: Sequence[Row], library: Library) -> str | None:
    """Say what is wrong with rows, in one line, as far as their files alone tell."""
    try:
        for row in rows:
            row.entry(library)
    except ShiraError as error:
        return str(error)
    return None


def triggers(stack: Sequence[Entry]) -> str:
    """Return the trigger words of all adapters, each once."""
    headers: list[Header] = [entry.adapter.header for entry in stack]
    return ", ".join(dict.fromkeys(word for header in headers for word in header.triggers))


def same_alpha(stack: Sequence[Entry], alpha: float) -> Stack:
    """Return a stack with all alphas multiplied."""
    return tuple(
        replace(
            entry,
            alpha=Alpha(
                entry.alpha.value * alpha,
                {part: value * alpha for part, value in entry.alpha.components.items()},
                entry.alpha.blocks,
            ),
        )
        for entry in stack
    )


def _from_json(text: str) -> list[Row]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"the rows are no JSON ({error}): use the editor of rows") from None
    return [_row(value, number) for number, value in enumerate(values, 1)]


def _row(value: Any, number: int) -> Row:
    known = [f.name for f in fields(Row)]
    if not isinstance(value, dict) or "name" not in value:
        raise InvalidValue(f"row {number} is no object with a name: use the editor of rows")
    given = {key: value[key] for key in known if key in value}
    for key, kind in _TYPES.items():
        if key in given and not isinstance(given[key], kind):
            raise InvalidValue(f"row {number}: {key} {given[key]!r:.80} is no {kind.__name__}")
    return Row(**given)


def _from_lines(text: str) -> list[Row]:
    """Read lines such as `style.shira: 0.8`; the alpha may be left out."""
    rows = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, number = line.rpartition(":")
        try:
            rows.append(Row(name.strip(), alpha=float(number)) if colon else Row(line))
        except ValueError:
            raise InvalidValue(f"{line!r:.120} is not understood: write style.shira: 0.8") from None
    return rows

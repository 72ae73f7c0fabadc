"""The accordion's only state: its rows as JSON text, and the tags that they stand for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from shira_core import rows
from shira_core.errors import InvalidValue
from shira_core.rows import Row

from .. import tag
from ..tag import Tag

EMPTY = "[]"
_TAG = re.compile(rf"<{tag.KIND}:([^>]*)>")


def tags(value: object) -> list[Tag]:
    """Return the tags of the rows that are on; raises InvalidValue.

    value: a list of rows such as {"name": "riso.shira", "alpha": 0.8}, as the API passes it or as
    JSON text; or lines such as `riso: 0.8`, as a list or as text.
    """
    text = _as_text(value)
    used, spans = rows.read(text).rows, _spans(text)
    found = [_tag(row, spans[at] if spans else {}) for at, row in enumerate(used)]
    for each in found:
        parse(tag.write(each))  # refuses a start after its stop, and unknown blocks
    return found


def write(found: Sequence[Tag], hashes: Mapping[str, str]) -> str:
    """Return tags as rows of the page; `hashes` are those that files should have, by row name."""
    return json.dumps(
        [
            {**asdict(each.row), "start": each.start, "stop": each.stop, **_hash(each.row, hashes)}
            for each in found
        ],
        ensure_ascii=False,
    )


def hashes(text: str) -> dict[str, str]:
    """Return the hashes that the files of a page's rows should have, by name."""
    values = json.loads(text) if text.lstrip().startswith("[") else []
    return {each["name"]: each["hash"] for each in values if isinstance(each.get("hash"), str)}


def parse(text: str) -> list[Tag]:
    """Return all tags in a text; raises InvalidValue."""
    return [tag.read(parts.split(":"), {}) for parts in _TAG.findall(text)]


def _as_text(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise InvalidValue(f"rows {value!r:.80} are no list: [{{'name': 'riso', 'alpha': 0.8}}]")
    if all(isinstance(each, str) for each in value):
        return "\n".join(value)
    return json.dumps(value)


def _spans(text: str) -> list[Mapping[str, Any]]:
    """Return the objects of the rows that are on; none for lines."""
    values = json.loads(text) if text.lstrip().startswith("[") else []
    return [each for each in values if each.get("on", True)]


def _tag(row: Row, values: Mapping[str, Any]) -> Tag:
    row.strength()
    span = values.get("start", 0.0), values.get("stop", 1.0)
    for number in span:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise InvalidValue(f"{row.name}: start or stop {number!r:.80} is no number: 0 to 1")
    return Tag(row, *map(float, span))


def _hash(row: Row, hashes: Mapping[str, str]) -> dict[str, str]:
    return {"hash": hashes[row.name]} if row.name in hashes else {}

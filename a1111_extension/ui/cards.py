"""What pages show of the files in a library, from their headers and the notes beside them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from shira_core import facts
from shira_core.header import to_json
from shira_core.library import Library
from shira_core.rows import Row

from .. import tag
from ..tag import Tag

SHORT = 10  # hex digits of a hash, as WebUIs show it


@dataclass(frozen=True)
class Card:
    """One file. words: what a prompt needs; metadata: what its header says."""

    name: str
    path: Path
    title: str
    architecture: str
    words: tuple[str, ...]
    metadata: Mapping[str, Any]


def card(library: Library, name: str) -> Card:
    """Return what is known of a file; raises FileInvalid."""
    opened = library.load(name)
    header = opened.adapter.header
    extra = {key: value for key, value in header.extra.items() if key != facts.THUMBNAIL}
    return Card(
        name,
        opened.path,
        header.title,
        header.architecture,
        words(opened.path, header.triggers),
        {**to_json(header), "entries": opened.adapter.entries, **extra},
    )


def words(path: Path, triggers: tuple[str, ...]) -> tuple[str, ...]:
    """Return the trigger words: those that a person has noted beside the file, else its own."""
    noted = notes(path).get("activation text")
    if not isinstance(noted, str) or not noted.strip():
        return triggers
    return tuple(word for each in noted.split(",") if (word := each.strip()))


def notes(path: Path) -> dict[str, Any]:
    """Return what the WebUI's editor has written beside a file; {} where it cannot be read."""
    try:
        found = json.loads(path.with_suffix(".json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def listing(library: Library) -> list[dict[str, Any]]:
    """Return name, title, architecture and trigger words of all files, or an `error`."""
    return facts.listing(library.names(), partial(_listed, library))


def thumbnail(library: Library, name: str) -> str | None:
    """Return the picture inside or beside a file as a data URL; raises FileInvalid."""
    found = facts.preview(library, name)
    return f"data:{found[1]};base64,{base64.b64encode(found[0]).decode()}" if found else None


def tag_of(name: str, alpha: float = 1.0) -> str:
    """Return a tag for a prompt."""
    return tag.write(Tag(Row(name, alpha=alpha)))


def _listed(library: Library, name: str) -> dict[str, Any]:
    header = library.load(name).adapter.header
    own = words(library.load(name).path, header.triggers)
    return {**facts.short(library, name), "tag": tag_of(name), "words": list(own)}

"""The rows of a picture in its infotext, and back: `SHiRA` and `SHiRA hashes`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from shira_core.errors import ShiraError
from shira_core.library import SUFFIXES, Library

from .. import tag
from ..tag import Tag
from . import state
from .cards import SHORT
from .readout import differs

ROWS, HASHES = "SHiRA", "SHiRA hashes"
PROMPTS = ("Prompt", "Hires prompt")
Find = Callable[[str], str]  # a file's name by its name in a tag; raises FileInvalid
# Between the names and their hashes there are ": " and ", ".
_ESCAPED = str.maketrans({"%": "%25", ",": "%2C", ":": "%3A"})


def written(library: Library, rows: Sequence[Tag], names: Iterable[str]) -> dict[str, str]:
    """Return what a picture's infotext says: the rows as tags, and the hashes of all files.

    names: the files that the picture is drawn with, those of tags in the prompt among them.
    """
    hashes = _hashes(library, names)
    said = {ROWS: " ".join(map(tag.write, rows)), HASHES: hashes}
    return {key: text for key, text in said.items() if text}


def pasted(library: Library, find: Find, params: Mapping[str, Any]) -> str | None:
    """Return the rows of a pasted infotext for the page; None leaves those that are there.

    A file that has another name by now is found by its hash. Raises InvalidValue.
    """
    if ROWS not in params:
        return state.EMPTY if "Steps" in params else None  # a picture without rows, or a prompt
    hashes = _read_hashes(params)
    found, wanted = [], {}
    for each in state.parse(str(params[ROWS])):
        digest = hashes.get(_plain(each.row.name), "")
        name = _name(library, find, each.row.name, digest)
        found.append(replace(each, row=replace(each.row, name=name)))
        wanted[name] = digest
    return state.write(found, {name: digest for name, digest in wanted.items() if digest})


def warnings(library: Library, find: Find, params: Mapping[str, Any]) -> list[str]:
    """Return a line for each file of a pasted prompt's tags that is not the picture's."""
    hashes = _read_hashes(params)
    lines: list[str] = []
    for each in state.parse(" ".join(str(params.get(key, "")) for key in PROMPTS)):
        name, digest = each.row.name, hashes.get(_plain(each.row.name), "")
        try:
            lines += differs(name, library.load(find(name)), digest)
        except ShiraError as error:
            lines.append(str(error))
    return list(dict.fromkeys(lines))


def _hashes(library: Library, names: Iterable[str]) -> str:
    """Return `riso: 210a7b5898, ...`; files that cannot be read are noted elsewhere."""
    found = {}
    for name in names:
        try:
            found[_plain(name)] = library.load(name).digest[:SHORT]
        except ShiraError:
            continue
    return ", ".join(f"{name.translate(_ESCAPED)}: {digest}" for name, digest in found.items())


def _read_hashes(params: Mapping[str, Any]) -> dict[str, str]:
    pairs = (each.partition(": ") for each in str(params.get(HASHES, "")).split(", "))
    return {unquote(name): digest for name, colon, digest in pairs if colon}


def _name(library: Library, find: Find, name: str, digest: str) -> str:
    """Return the name of a tag's file, or of one with its hash; else a name that nothing has."""
    try:
        return find(name)
    except ShiraError:
        same = (each for each in library.names() if digest and _has(library, each, digest))
        return next(same, name if name.lower().endswith(SUFFIXES) else f"{name}.shira")


def _has(library: Library, name: str, digest: str) -> bool:
    try:
        return library.load(name).digest.startswith(digest)
    except ShiraError:
        return False


def _plain(name: str) -> str:
    """Return a file's name as tags and the infotext have it."""
    return name.removesuffix(".shira")

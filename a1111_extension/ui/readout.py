"""What the adapters of a stack do to each other and what is wrong with them, as HTML in words."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from zlib import crc32

from shira_core import load, pairs
from shira_core.adapter import Adapter, MemoryWeights
from shira_core.alpha import Alpha
from shira_core.errors import ShiraError
from shira_core.interference import advice_on
from shira_core.library import Library, Opened, Stamp
from shira_core.plan import Entry

from ..tag import Tag
from . import state
from .cards import SHORT

ALL_BELOW = 64  # weights: an adapter with fewer is compared whole
PART = 16  # of the weights of larger ones, one in so many
SHOWN = 3  # pairs that are shown at once
File = tuple[Path, Stamp]  # a file as it is now: what is remembered is not that of another one


def show(library: Library, rows: str, interference: bool = True) -> str:
    """Return the read-out of the page's rows, everything in it escaped.

    interference: also what pairs have in common, which reads a part of the files.
    It carries the rows that it is about, so that the page notices when they come from elsewhere.
    """
    try:
        found = state.tags(rows)
    except ShiraError as error:
        return _frame(rows, [_error(str(error))])
    opened, problems = _open(library, found, state.hashes(rows))
    lines = _interference(opened) if interference else []
    return _frame(rows, [*map(_error, problems), *lines])


def _open(
    library: Library, tags: Sequence[Tag], hashes: Mapping[str, str]
) -> tuple[list[Opened], list[str]]:
    """Open all files; return those that can be used, and a line for each that is wrong."""
    opened, problems = [], []
    for each in tags:
        try:
            file = library.load(each.row.name)
            opened.append(file)
            problems += differs(each.row.name, file, hashes.get(each.row.name, ""))
        except ShiraError as error:
            problems.append(str(error))
    return opened, problems


def differs(name: str, file: Opened, wanted: str) -> list[str]:
    """Return a line if a file is not the one that a picture was made with."""
    if not wanted or file.digest.startswith(wanted):
        return []
    return [f"{name} is not the file of that picture: {file.digest[:SHORT]}, not {wanted}"]


def _interference(opened: Sequence[Opened]) -> list[str]:
    whole = any(len(file.adapter.weights) < ALL_BELOW for file in opened)
    files = [(file.path, file.stamp) for file in opened]
    try:
        found = [(_overlap(*pair, whole), *pair) for pair in combinations(files, 2)]
    except ShiraError as error:  # what a header promises is not in the file
        return [_error(str(error))]
    found.sort(key=lambda each: -each[0])
    lines = [_pair(share, first.stem, second.stem) for share, (first, _), (second, _) in found]
    return lines[:SHOWN] + _more(lines[SHOWN:])


@lru_cache(maxsize=1024)
def _overlap(first: File, second: File, whole: bool) -> float:
    """Return which share of their entries two adapters have in common; raises FileInvalid."""
    adapters = [load(file[0]) if whole else _part(file) for file in (first, second)]
    stack = [Entry(adapter, Alpha()) for adapter in adapters]
    return pairs.overlaps(stack, lambda: None)[0].overlap


@lru_cache(maxsize=8)
def _part(file: File) -> Adapter:
    """Return an adapter with a part of its weights, of every file the same."""
    adapter = load(file[0])
    chosen = [name for name in adapter.weights if crc32(name.encode()) % PART == 0]
    read = MemoryWeights({name: adapter.weights.read(name) for name in chosen})
    return Adapter(adapter.header, read, adapter.path)


def _pair(overlap: float, first: str, second: str) -> str:
    advice = advice_on(overlap)
    kind = "shira-many" if advice else "shira-few"
    share = f"{overlap:.0%}" if overlap >= 0.005 else "almost none"
    said = f"{first} and {second} have {share} of their entries in common: {advice or 'mix freely'}"
    return f'<p class="{kind}">{_e(said)}</p>'


def _more(lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    title = f"{len(lines)} more pairs"
    return [f"<details><summary>{title}</summary>{''.join(lines)}</details>"]


def _frame(rows: str, lines: Iterable[str]) -> str:
    return f'<div class="shira-readout" data-rows="{_e(rows)}">{"".join(lines)}</div>'


def _error(text: str) -> str:
    return f'<p class="shira-error">{_e(text)}</p>'


def _e(text: str) -> str:
    return html.escape(text, quote=True)

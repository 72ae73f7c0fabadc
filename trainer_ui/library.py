"""Adapters below the roots: what they are, how they go together, mixing and baking.

Thin calls to `shira_core`. All of them read files and may take seconds; none is for an event loop.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from PIL import Image

import shira_core as shira
from shira_core import facts, names, pairs
from shira_core.alpha import as_alpha
from shira_core.atomic import atomic_write, refuse_existing
from shira_core.errors import InvalidValue, ShiraError
from shira_core.library import SUFFIXES, Library
from shira_core.plan import Entry

from . import heatmap
from .engine.sample import thumbnail
from .roots import Roots

Progress = Callable[[int, int], None]
Stack = Sequence[tuple[Path, float]]


@dataclass(frozen=True)
class Card:
    """A file that may be an adapter. architecture: as people call it. size: in bytes.

    problem: why it is none, in one line, or "".
    """

    path: Path
    title: str
    architecture: str
    triggers: tuple[str, ...]
    mask: str
    entries: int
    size: int
    problem: str


@dataclass(frozen=True)
class Comparison:
    """How adapters interfere. text: figures and advice, a line per pair. picture: a heat map."""

    names: tuple[str, ...]
    text: str
    picture: Image.Image


def adapters(roots: Roots) -> list[Card]:
    """Return all adapters below the roots, `.shira` files that are none with their problem."""
    return [card for folder in roots.folders for card in _cards(folder)]


def details(path: Path) -> dict[str, object]:
    """Return all that a file says of itself, by name; raises FileInvalid."""
    return facts.full(_library(path), path.name)


def preview(path: Path) -> bytes | None:
    """Return an adapter's picture, beside the file or in it; raises FileInvalid."""
    found = facts.preview(_library(path), path.name)
    return found[0] if found else None


def compare(paths: Sequence[Path], progress: Progress | None = None) -> Comparison:
    """Compare two or more adapters; raises InvalidValue, FileInvalid, ShapeMismatch.

    progress: called with the weights compared and in all.
    """
    if len(paths) < 2:
        raise InvalidValue("choose two adapters or more to compare")
    stack = [Entry(shira.load(path), as_alpha(1.0)) for path in paths]
    total, done = pairs.steps(stack), count(1)

    def step() -> None:
        if progress:
            progress(next(done), total)

    found = pairs.measured(stack, step)
    titles = tuple(map(pairs.title, stack))
    return Comparison(titles, pairs.text(stack, found), heatmap.draw(titles, found))


def mix_preview(stack: Stack, mode: str = "sum") -> str:
    """Return what `mix` would write, as lines of text; raises as `mix`."""
    opened = _opened(stack)
    mixed = shira.mix(opened, mode)
    entries = [Entry(adapter, as_alpha(alpha)) for adapter, alpha in opened]
    lines = {
        "architecture": names.label(mixed.header.architecture),
        "entries": f"{mixed.entries:,}, {mixed.header.density or 0:.2%} of the changed weights",
        "trigger words": ", ".join(mixed.header.triggers),
    }
    told = [f"{name}: {text}" for name, text in lines.items() if text]
    common = pairs.text(entries, pairs.overlaps(entries, lambda: None))
    return "\n".join([*told, common])


def mix(stack: Stack, out: Path, mode: str = "sum", title: str = "") -> Path:
    """Write one adapter made of several.

    mode: a key of `shira_core.modes.MODES`. Raises InvalidValue, ShapeMismatch,
    ArchitectureMismatch, FileInvalid, FileExists, WriteFailed.
    """
    refuse_existing(out, False)
    return shira.mix(_opened(stack), mode, title=title or out.stem).save(out)


def bake(checkpoint: Path, out: Path, stack: Stack, progress: Progress | None = None) -> Path:
    """Write a checkpoint with adapters added; raises as `shira_core.bake`."""
    return shira.bake(checkpoint, out, _opened(stack), progress=progress)


def finish(
    path: Path, triggers: Sequence[str], preview: Image.Image | None = None, title: str = ""
) -> Path:
    """Write trigger words, a preview and a title into an adapter, atomically.

    preview None, title "": they stay as they are. Raises FileInvalid, WriteFailed.
    """
    adapter = shira.load(path)
    header = replace(adapter.header, triggers=tuple(triggers), title=title or adapter.header.title)
    if preview:
        header = replace(header, extra={**header.extra, facts.THUMBNAIL: thumbnail(preview)})
    return replace(adapter, header=header).save(path, overwrite=True)


def copy(path: Path, folder: Path) -> Path:
    """Copy an adapter into a host's folder and return the copy; raises FileExists, WriteFailed."""
    out = folder / path.name
    with atomic_write(out) as target:
        shutil.copyfile(path, target)
    return out


def _cards(folder: Path) -> Iterator[Card]:
    library = Library(lambda: [folder])
    for name in library.names():
        try:
            yield _card(library, name)
        except ShiraError as error:
            if name.lower().endswith(SUFFIXES[0]):  # other files need not be adapters
                path = folder / name
                yield Card(path, path.stem, "", (), "", 0, _size(path), str(error))


def _card(library: Library, name: str) -> Card:
    opened = library.load(name)
    header = opened.adapter.header
    return Card(
        path=opened.path,
        title=header.title or opened.path.stem,
        architecture=names.label(header.architecture),
        triggers=header.triggers,
        mask=header.mask,
        entries=opened.adapter.entries,
        size=_size(opened.path),
        problem="",
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link to nothing
        return 0


def _library(path: Path) -> Library:
    return Library(lambda: [path.parent])


def _opened(stack: Stack) -> list[tuple[shira.Adapter, float]]:
    return [(shira.load(path), alpha) for path, alpha in stack]

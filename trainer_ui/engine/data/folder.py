"""Which files of a folder are trained, with which caption and how often.

Three layouts: pictures with a `.txt` or `.caption` file of the same name beside them; folders such
as `10_ink style` (kohya's), whose pictures count ten times and have "ink style" as caption where
they lack a text; and `metadata.jsonl` (Hugging Face's), which lists the pictures and their texts.
`name.mask.png` is never a picture: it is the mask of the picture `name`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from os.path import splitext
from pathlib import Path
from typing import Any

from ..errors import DataInvalid

EXTENSIONS = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp"))
OTHER_EXTENSIONS = frozenset((".gif", ".tif", ".tiff", ".heic", ".avif", ".jxl", ".psd"))
TEXTS = (".txt", ".caption")
MASK = ".mask.png"
METADATA = "metadata.jsonl"
KEYS = ("text", "caption", "prompt")  # of its captions
Read = Callable[[Path], str]
REPEATS = re.compile(r"(\d+)_(.*)", re.DOTALL)


@dataclass(frozen=True)
class Found:
    """A file that may be a picture; caption None: it has no text. mask: the mask beside it."""

    path: Path
    caption: str | None
    repeats: int = 1
    mask: Path | None = None


@dataclass(frozen=True)
class Contents:
    """What a folder holds for training, and a line for each kind of thing that was left out."""

    found: tuple[Found, ...]
    notes: tuple[str, ...]


def on_one_line(text: str) -> str:
    """Return a caption on one line, without the marks that editors put before or between texts."""
    return " ".join(text.replace("\ufeff", " ").split())


def read(path: Path) -> str:
    """Return a caption file's text on one line; raises DataInvalid when it is not UTF-8."""
    try:
        return on_one_line(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise DataInvalid(
            f"caption {path} is not UTF-8 (byte {error.start}): save it again as UTF-8"
        ) from None
    except OSError as error:
        raise DataInvalid(f"caption {path} cannot be read: {error.strerror}") from None


@dataclass(frozen=True)
class _Source:
    """A folder whose pictures are trained. files: the names in it. caption: of those without."""

    folder: Path
    files: list[str]
    repeats: int = 1
    caption: str | None = None


def find(folder: Path, setting: str = "images", text: Read = read) -> Contents:
    """Return the pictures of a folder in the order of their names.

    setting: its name, for errors. text: returns what a caption file says. Raises DataInvalid when
    there are none (naming a subfolder that has some), or when a caption cannot be read.
    """
    _check(folder, setting)
    listed = folder / METADATA
    contents = _from_metadata(listed, text) if listed.is_file() else _from_folders(folder, text)
    if not contents.found:
        raise DataInvalid(_nothing(folder, setting))
    return contents


def first(folder: Path, count: int, text: Read = read) -> tuple[Found, ...]:
    """Return the first pictures that `find` returns; nothing of the others is read.

    Raises DataInvalid where there is no folder, or for one of their captions.
    """
    _check(folder, "images")
    listed = folder / METADATA
    if listed.is_file():
        found = _listed_in(listed, text)
    else:
        found = (each for source in _sources(folder) for each in _pictures(source, text))
    return tuple(islice(found, count))


def _check(folder: Path, setting: str) -> None:
    if not folder.is_dir():
        state = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataInvalid(f"{setting}: {folder} {state}: give the folder that holds the pictures")


def _from_folders(folder: Path, text: Read) -> Contents:
    sources = list(_sources(folder))
    found = tuple(each for source in sources for each in _pictures(source, text))
    notes = [note for source in sources for note in _leftovers(source.files)]
    used = {source.folder for source in sources}
    elsewhere = {path: count for path, count in _counts(folder).items() if path not in used}
    if elsewhere:
        where = ", ".join(f"{count} in {path.name}" for path, count in elsewhere.items())
        notes.append(f"pictures in subfolders are not trained: {where}")
    return Contents(found, tuple(notes))


def _sources(folder: Path) -> Iterator[_Source]:
    """Yield a folder, and those in it whose names say how often their pictures count."""
    files, below = _names(folder)
    yield _Source(folder, files)
    for name in below:
        if (match := REPEATS.fullmatch(name)) and (repeats := int(match[1])):
            yield _Source(folder / name, _names(folder / name)[0], repeats, _words(match[2]))


def _pictures(source: _Source, text: Read) -> Iterator[Found]:
    """Yield the pictures of a source.

    Its names are looked at, not its files: asking for each of them is slow on network drives.
    """
    folder, there = source.folder, set(source.files)
    for name in filter(_is_picture, source.files):
        stem = splitext(name)[0]
        beside = next((f"{stem}{kind}" for kind in TEXTS if f"{stem}{kind}" in there), None)
        caption = text(folder / beside) if beside else source.caption
        mask = folder / f"{stem}{MASK}" if f"{stem}{MASK}" in there else None
        yield Found(folder / name, caption, source.repeats, mask)


def _leftovers(names: list[str]) -> Iterator[str]:
    """Yield notes on files that are no pictures though a person may take them for some."""
    stems = {splitext(name)[0] for name in names if _is_picture(name)}
    parts = [(name, *splitext(name)) for name in names]
    texts = [name for name, stem, kind in parts if kind in TEXTS and stem not in stems]
    masks = [n for n in names if n.endswith(MASK) and n.removesuffix(MASK) not in stems]
    other = [name for name, _, kind in parts if kind.lower() in OTHER_EXTENSIONS]
    if texts:
        yield f"{len(texts)} text files have no picture of their name, {texts[0]} for one"
    if masks:
        yield f"{len(masks)} masks have no picture of their name, {masks[0]} for one"
    if other:
        yield f"{len(other)} pictures are not trained, save them as PNG: {other[0]} for one"


def _from_metadata(path: Path, text: Read) -> Contents:
    """Return the pictures that a metadata.jsonl lists; the last line about one counts."""
    found = {each.path: each for each in _listed_in(path, text)}
    unlisted = [name for name in _picture_names(path.parent) if path.parent / name not in found]
    notes = [f"{len(unlisted)} pictures are not in {METADATA}, {name} for one" for name in unlisted]
    return Contents(tuple(found.values()), tuple(notes[:1]))


def _listed_in(path: Path, text: Read) -> Iterator[Found]:
    """Yield the pictures of a metadata.jsonl, one JSON object per line.

    `file_name` is relative to it; the caption is `text`, `caption` or `prompt`, else beside it.
    """
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            yield _listed(path, number, line, text)


def _listed(path: Path, number: int, line: str, text: Read) -> Found:
    try:
        entry: dict[str, Any] = json.loads(line)
        picture = path.parent / entry["file_name"]
        caption = next((entry[k] for k in KEYS if k in entry), None)
        if caption is not None:
            caption = " ".join(caption.split())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataInvalid(
            f'{path}, line {number}: write {{"file_name": "a.png", "text": "a cat"}}'
        ) from None
    if path.parent.resolve() not in picture.resolve().parents:
        raise DataInvalid(f"{path}, line {number}: {picture} is outside of its folder")
    beside = [file for kind in TEXTS if (file := picture.with_suffix(kind)).is_file()]
    if caption is None and beside:
        caption = text(beside[0])
    mask = picture.with_name(f"{picture.stem}{MASK}")
    return Found(picture, caption, mask=mask if mask.is_file() else None)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataInvalid(f"{path} cannot be read ({error}): save it again as UTF-8") from None


def _is_picture(name: str) -> bool:
    kind = splitext(name)[1].lower()
    return kind in EXTENSIONS and not name.startswith(".") and not name.endswith(MASK)


def _picture_names(folder: Path) -> list[str]:
    return [name for name in _names(folder)[0] if _is_picture(name)]


def _names(folder: Path) -> tuple[list[str], list[str]]:
    """Return the sorted names of the files in a folder, and of the folders.

    What the listing itself tells is not asked for again, but of links, which may lead nowhere.
    """
    files, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            link = entry.is_symlink()
            if os.path.isfile(entry) if link else entry.is_file():
                files.append(entry.name)
            elif os.path.isdir(entry) if link else entry.is_dir():
                folders.append(entry.name)
    return sorted(files), sorted(folders)


def _words(name: str) -> str | None:
    """Return the words of a folder's name, None when it has none."""
    return re.sub(r"[_\-\s]+", " ", name).strip() or None


def _counts(folder: Path) -> dict[Path, int]:
    """Return how many pictures the folders up to two levels below hold, those that hold some."""
    below = [path for pattern in ("*/", "*/*/") for path in sorted(folder.glob(pattern))]
    counts = {path: len(_picture_names(path)) for path in below if path.is_dir()}
    return {path: count for path, count in counts.items() if count}


def _nothing(folder: Path, setting: str) -> str:
    """Say that a folder has no pictures, and which folder below it the person may have meant."""
    counts = _counts(folder)
    best = max(counts, key=lambda path: counts[path], default=None)
    if best is not None:
        flag = setting.replace("_", "-")
        return (
            f"{setting}: no pictures directly in {folder}, but {counts[best]} in {best}: "
            f"give --{flag} {best}"
        )
    kinds = " ".join(sorted(EXTENSIONS))
    return f"{setting}: no pictures in {folder}: put some there ({kinds})"

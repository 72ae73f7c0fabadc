"""Build the folder that is shared: the file, its card, pictures, notes and checksums."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ... import facts
from ...atomic import explained, refuse_existing
from ...errors import FileExists, FileInvalid, InvalidValue
from ...file import load
from ...header import Header
from ...library import SUFFIXES, Library
from . import names, notes, pictures, sums
from .about import About, Bundle
from .card import Picture, Size, card
from .private import cleaned

CARD = "README.md"
IMAGES = "images"


def build(
    file: Path, folder: Path, about: About, *, twin: bool = False, overwrite: bool = False
) -> Bundle:
    """Write a hub-ready folder, whole or not at all, and return what is in it. Needs no network.

    twin: with a copy named .safetensors. overwrite: replace a folder that this function made.
    Raises FileInvalid (file, pictures), FileExists, WriteFailed, InvalidValue (about), and
    MissingDependency where there are pictures and no Pillow.
    """
    _check(about)
    adapter = load(file)
    header, left_out = cleaned(_described(adapter.header, file, about))
    with _new_folder(folder, overwrite) as new:
        name = names.stem(file.stem)
        main = replace(adapter, header=header).save(new / f"{name}{SUFFIXES[0]}")
        if twin:
            shutil.copyfile(main, main.with_suffix(SUFFIXES[1]))
        shown = _pictures(file, new / name, _prompts(header, about), about)
        main.with_suffix(".json").write_bytes(notes.of(header))
        _write_card(main, header, about, shown)
        listed = _files(new)
        sums.write(new, [each for each in listed if each.name != CARD])
    return Bundle(folder, contents(folder), left_out)


def contents(folder: Path) -> tuple[Path, ...]:
    """Return the files of a folder that `build` made, relative to it: the listed ones and the card.

    Raises FileInvalid where one is missing or changed; the card may be edited by hand.
    """
    if not is_bundle(folder):
        raise FileInvalid(f"{folder} is no folder that `shira publish` made: build one first")
    for name, sha256 in sums.read(folder).items():
        names.local(name)
        if not sums.matches(folder / name, sha256):
            raise FileInvalid(f"{folder / name} is missing or was changed: build the folder again")
    return _listed(folder)


def _listed(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(map(Path, [*sums.read(folder), CARD, sums.NAME])))


def is_bundle(folder: Path) -> bool:
    """Tell whether `build` made a folder."""
    return (folder / sums.NAME).is_file() and (folder / CARD).is_file()


def _check(about: About) -> None:
    for name in filter(None, (about.base_model, about.repository)):
        names.check_repository(name)
    given, shown = len(about.prompts), len(about.pictures) or 1
    if given > shown:
        raise InvalidValue(f"there are {given} prompts for {shown} pictures: one for each at most")


def _described(header: Header, file: Path, about: About) -> Header:
    """Return the header with what a person says of the file; a title must not be empty."""
    return replace(
        header,
        title=header.title or file.stem,
        author=about.author or header.author,
        description=about.description or header.description,
        license=about.licence or header.license,
        tags=tuple(dict.fromkeys([*header.tags, *about.tags])),
    )


def _pictures(file: Path, stem: Path, prompts: Iterable[str], about: About) -> list[Picture]:
    """Write the preview, named `stem`, and the card's pictures beside it; return the latter."""
    beside = file.resolve()
    found = facts.preview(Library(lambda: [beside.parent]), beside.name)
    sources = list(about.pictures)
    if found or sources:
        preview = stem.with_name(f"{stem.name}.preview.png")
        pictures.preview(found[0] if found else sources[0], str(file), preview)
        sources = sources or [preview]
        (stem.parent / IMAGES).mkdir()
    shown = []
    for number, (source, prompt) in enumerate(zip(sources, prompts, strict=False), 1):
        path = pictures.copy(source, stem.parent / IMAGES / f"{number:02}")
        shown.append(Picture(path.relative_to(stem.parent), prompt))
    return shown


def _prompts(header: Header, about: About) -> Iterator[str]:
    """Yield the prompt of each picture: as given, in a text file beside it, or the triggers."""
    yield from about.prompts
    for picture in about.pictures[len(about.prompts) :]:
        try:
            yield picture.with_suffix(".txt").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            yield ", ".join(header.triggers)
    yield ", ".join(header.triggers)


def _write_card(main: Path, header: Header, about: About, shown: Sequence[Picture]) -> None:
    known = facts.full(Library(lambda: [main.parent]), main.name)
    size = Size(known["entries"], known["share"], known["sha256"])
    text = card(main.name, header, size, about, shown)
    (main.parent / CARD).write_text(text, encoding="utf-8", newline="\n")


def _files(folder: Path) -> list[Path]:
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


@contextlib.contextmanager
def _new_folder(folder: Path, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` in the end; on any error nothing is left."""
    _refuse(folder, overwrite)
    new = folder.with_name(f".{folder.name[:40]}.{secrets.token_hex(6)}.tmp")
    try:
        new.mkdir(parents=True)
        yield new
        _refuse(folder, overwrite)
        _swap(new, folder)
    except OSError as error:
        raise explained(error, folder) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _refuse(folder: Path, overwrite: bool) -> None:
    """Raise FileExists for a folder that must stay, or that holds what `build` did not write."""
    if not folder.is_dir():
        return refuse_existing(folder, False)
    there = set(_files(folder))
    if not there:
        return None
    if not is_bundle(folder) or there - set(_listed(folder)):
        raise FileExists(f"{folder} holds other files: name another folder")
    if not overwrite:
        raise FileExists(f"{folder} exists: publish that folder, or add --overwrite")
    return None


def _swap(new: Path, folder: Path) -> None:
    """Put a folder in the place of another, which is deleted then."""
    old = new.with_suffix(".old")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        with contextlib.suppress(OSError):
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)

"""A change of many captions: what it would do, and taking it back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from shira_core.atomic import atomic_write, replace_all
from shira_core.errors import FileInvalid, InvalidValue

JOURNAL = ".shira-undo.json"
Progress = Callable[[int, int], None]
Contents = Mapping[str, "bytes | None"]  # of files by their names below the folder; None: no file


@dataclass(frozen=True)
class Change:
    """The caption of one picture. name: its path below the folder. before: None for no caption."""

    name: str
    before: str | None
    after: str


@dataclass(frozen=True)
class Edit:
    """A bulk edit. about: what it does, for a person."""

    about: str
    changes: tuple[Change, ...]


def edit(
    about: str, captions: Mapping[str, str | None], change: Callable[[str | None], str | None]
) -> Edit:
    """Return the edit that gives every caption what `change` makes of it.

    captions: by the names of the pictures. What stays as it is, or becomes nothing where there was
    none, is no change.
    """
    changes = []
    for name, before in captions.items():
        after = change(before)
        if after is not None and after != before and (after or before):
            changes.append(Change(name, before, after))
    return Edit(about, tuple(changes))


def replaced(old: str, new: str) -> Callable[[str | None], str | None]:
    """Return what puts `new` in the place of `old`; raises InvalidValue where there is no `old`."""
    if not old:
        raise InvalidValue("there is nothing to search for: write the words to replace")

    def change(caption: str | None) -> str | None:
        return " ".join(caption.replace(old, new).split()) if caption else caption

    return change


@dataclass(frozen=True)
class Journal:
    """What the files of an edit held before, and what was written into them."""

    before: Contents
    after: Contents

    def write(self, folder: Path) -> None:
        """Keep it in the folder, in the place of the one before; raises WriteFailed."""
        text = json.dumps({"before": _texts(self.before), "after": _texts(self.after)})
        with atomic_write(folder / JOURNAL, overwrite=True) as target:
            target.write_text(text, encoding="utf-8")


def journal(folder: Path) -> Journal | None:
    """Return the journal of the last edit, None without one; raises FileInvalid."""
    path = folder / JOURNAL
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        kept = Journal(_bytes(values["before"]), _bytes(values["after"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileInvalid(f"{path} cannot be read ({error}): delete it") from None
    for name in (*kept.before, *kept.after):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise FileInvalid(f"{path} names a file outside of its folder: delete it")
    return kept


def forget(folder: Path) -> None:
    """Remove the journal."""
    (folder / JOURNAL).unlink(missing_ok=True)


def held(folder: Path, names: Iterable[str]) -> dict[str, bytes | None]:
    """Return what files hold now."""
    return {name: _content(folder / name) for name in names}


def silent(done: int, total: int) -> None:
    """Tell nobody how far it is."""


def write_all(
    folder: Path, wanted: Contents, before: Contents, progress: Progress = silent
) -> list[str]:
    """Give files new contents, those that still hold what `before` says; return their names.

    None is written before all could be; raises WriteFailed.
    """
    names = [
        name
        for name, content in wanted.items()
        if content != before[name] and _content(folder / name) == before[name]
    ]
    replace_all({folder / name: wanted[name] for name in names}, progress)
    return names


def _content(path: Path) -> bytes | None:
    """Return a file's bytes, None where there is no file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _texts(contents: Contents) -> dict[str, str | None]:
    """Return contents as JSON can hold them, whatever bytes they are."""
    return {
        name: None if raw is None else raw.decode("utf-8", "surrogateescape")
        for name, raw in contents.items()
    }


def _bytes(texts: Mapping[str, str | None]) -> dict[str, bytes | None]:
    return {
        name: None if text is None else text.encode("utf-8", "surrogateescape")
        for name, text in texts.items()
    }

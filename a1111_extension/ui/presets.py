"""Stacks that a person has saved: JSON files in the folder `presets` beside the adapters."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from shira_core.atomic import atomic_write
from shira_core.errors import FileInvalid, InvalidValue, ShiraError

from . import state

FOLDER, SUFFIX = "presets", ".json"
_NAME = re.compile(r'[^./\\:*?"<>|\x00-\x1f][^/\\:*?"<>|\x00-\x1f]{0,99}')
MOST_BYTES = 1 << 20


def names(home: Path) -> list[str]:
    """Return the names of all presets below the folder of adapters, sorted."""
    found = (path.stem for path in (home / FOLDER).glob(f"*{SUFFIX}"))
    return sorted((each for each in found if not each.startswith(".")), key=str.casefold)


def save(home: Path, name: str, rows: str) -> str:
    """Save rows under a name, in place of a preset that has it; return the name.

    Raises InvalidValue, WriteFailed.
    """
    path = _path(home, name)
    if not state.tags(rows):
        raise InvalidValue(f"preset {path.stem!r:.80} would be empty: turn on a row and save again")
    with contextlib.suppress(OSError):  # writing says what is wrong
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, overwrite=True) as temporary:
        temporary.write_text(rows, encoding="utf-8")
    return path.stem


def load(home: Path, name: str) -> str:
    """Return the rows of a preset; raises InvalidValue, FileInvalid."""
    path = _path(home, name)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise FileInvalid(f"preset {name!r:.80} is larger than 1 MB: delete it")
        rows = path.read_text("utf-8")
        state.tags(rows)
    except ShiraError as error:
        raise FileInvalid(f"preset {name!r:.80}: {error}") from error
    except (OSError, ValueError) as error:
        raise FileInvalid(f"preset {name!r:.80} cannot be read ({error}): choose another") from None
    return rows


def delete(home: Path, name: str) -> None:
    """Remove a preset; raises InvalidValue, FileInvalid."""
    try:
        _path(home, name).unlink()
    except OSError as error:
        raise FileInvalid(f"preset {name!r:.80} cannot be deleted: {error.strerror}") from error


def _path(home: Path, name: object) -> Path:
    """Return the file of a preset; raises InvalidValue for what cannot be a file's name."""
    stem = name.strip() if isinstance(name, str) else ""
    if not _NAME.fullmatch(stem):
        raise InvalidValue(
            f"{stem!r:.80} is no name for a preset: type one, up to 100 letters without / \\ : < >"
        )
    return home / FOLDER / (stem + SUFFIX)

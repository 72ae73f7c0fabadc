"""The folders of adapters: models/shira, and those that --shira-dir names."""

from __future__ import annotations

import contextlib
from pathlib import Path, PurePosixPath

from modules import shared
from modules.paths_internal import models_path

from shira_core.errors import FileInvalid
from shira_core.library import SUFFIXES, Library

HOME = Path(models_path) / "shira"


def folders() -> list[Path]:
    """Return the folders of adapters, the one for new files first."""
    # An extension that is installed while the WebUI runs has had no say in its command line.
    return [HOME, *map(Path, getattr(shared.cmd_opts, "shira_dir", None) or ())]


LIBRARY = Library(folders)


def make_home() -> None:
    """Make models/shira; a read-only installation lists what is there."""
    with contextlib.suppress(OSError):
        HOME.mkdir(parents=True, exist_ok=True)


def find(name: str) -> str:
    """Return a file's name in LIBRARY by its name in a tag, which may leave out the suffix.

    Raises FileInvalid when there is no such file in the folders.
    """
    whole = PurePosixPath(name.replace("\\", "/")).suffix.lower() in SUFFIXES
    candidates = [*([name] if whole else []), *(name + suffix for suffix in SUFFIXES)]
    refusals = []
    for candidate in candidates:
        try:
            LIBRARY.resolve(candidate)
        except FileInvalid as error:
            refusals.append(error)
        else:
            return candidate
    raise refusals[0]

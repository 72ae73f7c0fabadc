"""The folders that a page may read and write: text of a person in, a checked path out."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from shira_core.errors import ShiraError


class PathRefused(ShiraError):
    """A path leads out of the folders that the trainer may use."""


class Roots:
    """Folders, each with a label: its name, with a number where several have the same.

    Nothing outside of them can be named: no "..", no absolute path elsewhere, no link that leads
    out.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        real = [Path(os.path.realpath(folder)) for folder in folders]
        self.folders = tuple(dict.fromkeys(real))
        self._by_label: dict[str, Path] = {}
        for folder in self.folders:
            self._by_label[self._label(folder.name or folder.anchor.strip("/\\:") or "root")] = (
                folder
            )

    def resolve(self, text: str | Path) -> Path:
        """Return the real path, free of links, that a text names; it need not exist.

        text: what `shown` returns, or an absolute path below one of the folders.
        Raises PathRefused.
        """
        wanted = str(text)
        if not wanted.strip() or "\0" in wanted:
            raise PathRefused(f"{wanted!r:.120} is no path: choose one in {self._places}")
        path = Path(wanted)
        if ".." in path.parts:
            raise PathRefused(f"{wanted!r:.120} has '..' in it: write the path without")
        real = _real(path if path.is_absolute() else self._below_label(path, wanted), wanted)
        if not any(real.is_relative_to(folder) for folder in self.folders):
            raise PathRefused(f"{wanted!r:.120} is outside of {self._places}: choose one in there")
        return real

    def shown(self, path: Path) -> str:
        """Return how a person knows a path: the label and what is below; raises PathRefused."""
        real = self.resolve(path)
        homes = [(label, own) for label, own in self._by_label.items() if real.is_relative_to(own)]
        label, folder = max(homes, key=lambda each: len(each[1].parts))
        below = real.relative_to(folder).as_posix()
        return label if below == "." else f"{label}/{below}"

    @property
    def _places(self) -> str:
        return ", ".join(map(str, self.folders)) or "no folder (none is allowed)"

    def _label(self, name: str) -> str:
        label, number = name, 1
        while label in self._by_label:
            number += 1
            label = f"{name} ({number})"
        return label

    def _below_label(self, path: Path, wanted: str) -> Path:
        label = path.parts[0] if path.parts else ""
        if label not in self._by_label:
            known = ", ".join(self._by_label)
            raise PathRefused(f"{wanted!r:.120} is in none of the folders {known}: choose one")
        return self._by_label[label].joinpath(*path.parts[1:])


def _real(path: Path, wanted: str) -> Path:
    """Return a path free of links; it need not exist, but the system must allow it."""
    try:
        real = Path(os.path.realpath(path))
        link = stat.S_ISLNK(real.lstat().st_mode)  # of a loop
    except (FileNotFoundError, NotADirectoryError):
        return real
    except (OSError, ValueError):
        link = True
    if link:
        raise PathRefused(f"{wanted!r:.120} cannot be opened: choose another path")
    return real

"""Folders of adapters: names in, opened and checked adapters out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from .adapter import Adapter
from .errors import FileInvalid, ShiraError
from .file import load
from .sound import digest

SUFFIXES = (".shira", ".safetensors")
Stamp = tuple[int, ...]


@dataclass(frozen=True)
class Opened:
    """An adapter and its file as it was opened; weights are read when they are used."""

    adapter: Adapter
    path: Path
    stamp: Stamp

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the file, read when it is asked for; raises FileInvalid."""
        try:
            return digest(self.path)
        except OSError as error:
            raise _unreadable(str(self.path), error) from error


class Library:
    """The adapters of a host's folders by their names, paths relative to one of them.

    folders: returns the folders, the one for new files first. Nothing outside of them can be named:
    no absolute paths, no "..", no links that lead out.
    """

    def __init__(self, folders: Callable[[], Sequence[Path]]) -> None:
        self._folders = folders
        self._opened: dict[Path, Opened] = {}

    @property
    def home(self) -> Path:
        """The folder that new adapters are written to."""
        return Path(self._folders()[0])

    def names(self) -> list[str]:
        """Return the names of all files that may be adapters, sorted; unreadable folders aside."""
        found = {name for folder in self._folders() for name in _below(Path(folder))}
        return sorted(found, key=lambda name: (name.casefold(), name))

    def resolve(self, name: str) -> Path:
        """Return the file of a name; raises FileInvalid unless it lies in one of the folders."""
        parts = PurePosixPath(str(name).replace("\\", "/"))
        if not str(name) or "\0" in str(name) or parts.is_absolute() or ".." in parts.parts:
            raise FileInvalid(f"{name!r:.120} is no name of a file in {self._place}: choose one")
        if parts.suffix.lower() not in SUFFIXES:
            raise FileInvalid(f"{name!r:.120} is no .shira file: choose one in {self._place}")
        for folder in map(Path, self._folders()):
            path = folder / parts
            if os.path.isfile(path):  # False for names that are too long, where Path raises
                return self._inside(path, folder, name)
        raise FileInvalid(
            f"{name!r:.120} is not in {self._place}: put it there, or choose another file"
        )

    def new_path(self, name: str) -> Path:
        """Return where an adapter of a new name is written; raises FileInvalid."""
        parts = PurePosixPath(name.strip())
        if len(parts.parts) != 1 or parts.name in ("..", "") or "\\" in name or "\0" in name:
            raise FileInvalid(f"{name!r:.120} is no name for a file in {self._place}: my style")
        return self.home / (parts.name if parts.suffix == ".shira" else parts.name + ".shira")

    def load(self, name: str) -> Opened:
        """Open an adapter; the one that is open if its file is unchanged. Raises FileInvalid."""
        path = self.resolve(name)
        try:
            stamp = _stamp(path)
            known = self._opened.get(path)
            if known is None or known.stamp != stamp:
                known = Opened(load(path), path, stamp)
                self._opened[path] = known
        except OSError as error:
            raise _unreadable(name, error) from error
        return known

    def fingerprint(self, name: str) -> str:
        """Return what changes with a file's content."""
        try:
            return self.load(name).digest
        except ShiraError as error:
            return str(error)

    def problem(self, name: str) -> str | None:
        """Say what is wrong with a file, in one line; None if its header is sound."""
        try:
            self.load(name)
        except ShiraError as error:
            return str(error)
        return None

    @property
    def _place(self) -> str:
        """The folder as a person knows it: its last two names."""
        return "/".join(self.home.parts[-2:])

    def _inside(self, path: Path, folder: Path, name: str) -> Path:
        """Return the file itself; a link may not lead out of the folder."""
        real = path.resolve()
        if not real.is_relative_to(folder.resolve()):
            raise FileInvalid(
                f"{name!r:.120} is a link out of {self._place}: put the file itself there"
            )
        return real


def _below(folder: Path) -> Iterator[str]:
    """Yield the names of files below a folder that may be adapters, hidden ones aside."""
    for place, below, files in os.walk(folder, followlinks=False):
        below[:] = [each for each in below if not each.startswith(".")]
        for file in files:
            if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                yield (Path(place) / file).relative_to(folder).as_posix()


def _unreadable(name: str, error: OSError) -> FileInvalid:
    return FileInvalid(f"{name!r:.120} cannot be read: {error.strerror or error}")


def _stamp(path: Path) -> Stamp:
    """Return what no change of a file leaves as it is; the change time cannot be set by hand."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

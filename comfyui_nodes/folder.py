"""The folders models/shira: names of adapters in, opened and checked adapters out."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import folder_paths

import shira_core as shira
from shira_core.adapter import Adapter
from shira_core.errors import FileInvalid, ShiraError

FOLDER = "shira"
SUFFIXES = {".shira", ".safetensors"}
CHUNK = 1 << 20
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
            return _digest(self.path)
        except OSError as error:
            raise _unreadable(str(self.path), error) from error


_OPENED: dict[Path, Opened] = {}


def register() -> None:
    """Tell ComfyUI of models/shira; folders from extra_model_paths.yaml stay."""
    folder_paths.folder_names_and_paths.setdefault(FOLDER, ([], set()))[1].update(SUFFIXES)
    home = Path(folder_paths.models_dir) / FOLDER
    folder_paths.add_model_folder_path(FOLDER, str(home))
    with contextlib.suppress(OSError):  # a read-only installation lists what is there
        home.mkdir(parents=True, exist_ok=True)


def names() -> list[str]:
    """Return the names of all files that may be adapters, as ComfyUI lists them."""
    return list(folder_paths.get_filename_list(FOLDER))


def resolve(name: str) -> Path:
    """Return the file of a name; raises FileInvalid unless it lies in a folder models/shira."""
    parts = PurePosixPath(str(name).replace("\\", "/"))
    if not str(name) or "\0" in str(name) or parts.is_absolute() or ".." in parts.parts:
        raise FileInvalid(f"{name!r:.120} is no name of a file in models/shira: choose one there")
    if parts.suffix.lower() not in SUFFIXES:
        raise FileInvalid(f"{name!r:.120} is no .shira file: choose one in models/shira")
    for folder in map(Path, folder_paths.get_folder_paths(FOLDER)):
        path = folder / parts
        if os.path.isfile(path):  # False for names that are too long, where Path raises
            return _inside(path, folder, name)
    raise FileInvalid(f"{name!r:.120} is not in models/shira: put it there, or choose another file")


def home() -> Path:
    """Return the folder that new adapters are written to."""
    return Path(folder_paths.get_folder_paths(FOLDER)[0])


def new_path(name: str) -> Path:
    """Return where an adapter of a new name is written; raises FileInvalid."""
    parts = PurePosixPath(name.strip())
    if len(parts.parts) != 1 or parts.name in ("..", "") or "\\" in name or "\0" in name:
        raise FileInvalid(f"{name!r:.120} is no name for a file in models/shira: my style, say")
    return home() / (parts.name if parts.suffix == ".shira" else parts.name + ".shira")


def load(name: str) -> Opened:
    """Open an adapter, or return it if it is open and its file unchanged; raises FileInvalid."""
    path = resolve(name)
    try:
        stamp = _stamp(path)
        known = _OPENED.get(path)
        if known is None or known.stamp != stamp:
            known = Opened(shira.load(path), path, stamp)
            _OPENED[path] = known
    except OSError as error:
        raise _unreadable(name, error) from error
    return known


def fingerprint(name: str) -> str:
    """Return what changes with a file's content: what ComfyUI's cache goes by."""
    try:
        return load(name).digest
    except ShiraError as error:
        return str(error)


def problem(name: str) -> str | None:
    """Say what is wrong with a file, in one line; None if its header is sound."""
    try:
        load(name)
    except ShiraError as error:
        return str(error)
    return None


def _inside(path: Path, folder: Path, name: str) -> Path:
    """Return the file itself; a link may not lead out of the folder."""
    real = path.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise FileInvalid(f"{name!r:.120} is a link out of models/shira: put the file itself there")
    return real


def _unreadable(name: str, error: OSError) -> FileInvalid:
    return FileInvalid(f"{name!r:.120} cannot be read: {error.strerror or error}")


def _stamp(path: Path) -> Stamp:
    """Return what no change of a file leaves as it is; the change time cannot be set by hand."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()

"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .errors import FileExists, ShiraError, WriteFailed

WRITERS = 16  # a disk takes milliseconds to free what is replaced, but many at once
OPEN = (5, 32)  # errors of Windows: access denied, sharing violation
PAUSES = (0.01, 0.04, 0.16, 0.64)  # seconds
NO_SPACE = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise FileExists when `path` is there and must stay; call it before long work too."""
    if os.path.isdir(path):
        raise FileExists(f"{path} is a folder: name a file inside it")
    if os.path.exists(path) and not overwrite:  # Path.exists() raises for names too long
        raise FileExists(f"{path} exists: choose another name or add --overwrite (overwrite=True)")


@contextlib.contextmanager
def atomic_write(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`.

    On any exception, Ctrl-C included, the temporary file is removed and `path` is as it was.
    Raises FileExists, and WriteFailed for what the operating system refuses (no space, rights).
    """
    target = Path(path)
    refuse_existing(target, overwrite)
    temporary = _beside(target)
    try:
        yield temporary
        _sync(temporary, os.O_RDWR)
        refuse_existing(target, overwrite)
        _replace(temporary, target)
        with contextlib.suppress(OSError):  # folders cannot be synced everywhere
            _sync(target.parent, os.O_RDONLY)
    except ShiraError:
        raise
    except OSError as error:
        raise explained(error, target) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def replace_all(
    contents: Mapping[Path, bytes | None],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write many small files, each whole or not at all, 10,000 in seconds; None removes one.

    All are on disk before the first is replaced, so a full disk changes nothing.
    progress: called with the files done and in all. Raises WriteFailed.
    """
    ready: dict[Path, Path] = {}
    target = Path()
    try:
        for target, content in contents.items():
            if content is not None:
                ready[target] = _beside(target)
                ready[target].write_bytes(content)
        _sync_all(ready.values())

        def put(path: Path) -> None:
            if path in ready:
                _replace(ready[path], path)
            else:
                path.unlink()

        with ThreadPoolExecutor(WRITERS) as writers:
            for done, _ in enumerate(writers.map(put, contents), 1):
                progress(done, len(contents))
        for folder in {path.parent for path in contents}:
            with contextlib.suppress(OSError):  # folders cannot be synced everywhere
                _sync(folder, os.O_RDONLY)
    except OSError as error:
        raise explained(error, Path(error.filename2 or target)) from error
    finally:
        for temporary in ready.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _sync_all(paths: Iterable[Path]) -> None:
    """Bring files to the disk: all that wait for it at once, where the system can do that."""
    if hasattr(os, "sync"):
        os.sync()
        return
    for path in paths:
        _sync(path, os.O_RDWR)


def _replace(new: Path, target: Path) -> None:
    """Give a file the name of another; where that is open for a moment, wait for it.

    Windows refuses it while a program, such as a virus scanner, reads the file.
    """
    for pause in PAUSES:
        try:
            os.replace(new, target)
        except PermissionError as error:
            if getattr(error, "winerror", None) not in OPEN:
                raise
            time.sleep(pause)
        else:
            return
    os.replace(new, target)


def _beside(target: Path) -> Path:
    """Return a new name in the same folder."""
    # Names have at most 255 bytes, and a character up to four.
    return target.with_name(f".{target.name[:40]}.{secrets.token_hex(6)}.tmp")


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def explained(error: OSError, target: Path) -> WriteFailed:
    """Return what the operating system refused, as an error of ours that says what to do."""
    if error.errno in NO_SPACE:
        return WriteFailed(f"no space left for {target}: free some and try again; nothing changed")
    if error.errno == errno.ENOENT and not os.path.exists(target.parent):
        return WriteFailed(f"cannot write {target}: make its folder first; nothing changed")
    reason = error.strerror or str(error)
    return WriteFailed(f"cannot write {target}: {reason}: choose another place; nothing changed")

"""A run's folder belongs to one process: another one is refused, a dead one's claim is void."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shira_core.errors import FileExists

NAME = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder, which must exist; raises FileExists while another process does.

    The operating system gives the lock back when a process ends, however it ends.
    """
    path = folder / NAME
    handle = _open(path)
    try:
        yield
    finally:
        if sys.platform != "win32":  # which removes no open file
            path.unlink(missing_ok=True)
        os.close(handle)


def _open(path: Path) -> int:
    """Return the handle of the locked file.

    The process that had it may remove the file between our opening and locking: then once more.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(handle)
        except OSError:
            owner = os.read(handle, 20).decode(errors="replace").strip()
            os.close(handle)
            raise FileExists(
                f"{path.parent} belongs to a run that goes on (process {owner or 'unknown'}): "
                "wait for it, stop it, or choose another out"
            ) from None
        if _is(path, handle):
            os.ftruncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
            return handle
        os.close(handle)


def _is(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> None:
        """Lock a byte that nobody reads: Windows keeps others from reading what is locked."""
        os.lseek(handle, 1 << 30, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)
else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

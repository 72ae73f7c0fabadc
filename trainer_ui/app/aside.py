"""A process beside the page's own for what takes seconds of Python: the page answers meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

from shira_core.errors import OutOfMemory

P = ParamSpec("P")
T = TypeVar("T")


class Aside:
    """Calls functions in one process, started when it is first needed; it ends with ours."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()

    def call(self, act: Callable[P, T], *values: P.args, **more: P.kwargs) -> T:
        """Return what a function of a module returns; raises what it raises.

        Raises OutOfMemory when the process was ended; the next call starts another.
        """
        try:
            return self._open().submit(act, *values, **more).result()
        except BrokenProcessPool:
            self.close()
            raise OutOfMemory(
                "the process that computes this was ended, for lack of memory it seems: close "
                "other programs and try again"
            ) from None

    def prepare(self, act: Callable[P, object], *values: P.args, **more: P.kwargs) -> None:
        """Start the process, and let it call a function, so that its modules are there."""
        self._open().submit(act, *values, **more)

    def close(self) -> None:
        """End the process, when it has done what it was asked for."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _open(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    1, multiprocessing.get_context("spawn"), initializer=_begin
                )
            return self._pool


def _begin() -> None:
    """Give way to the page where the system can; end when the program that started us is gone."""
    if hasattr(os, "nice"):
        os.nice(5)
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()

"""A process beside the page's own for what takes seconds of Python: the page answers meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from typing import ParamSpec, TypeVar

from shira_core.errors import OutOfMemory

P = ParamSpec("P")
T = TypeVar("T")


class Aside:
    """Calls functions in one process, started when it is first needed; it ends with ours."""

    def __init__(self) -> None:
        self._process: _Process | None = None
        self._lock = threading.Lock()

    def call(self, act: Callable[P, T], *values: P.args, **more: P.kwargs) -> T:
        """Return what a function of a module returns; raises what it raises.

        Raises OutOfMemory when the process was ended; the next call starts another.
        """
        process = self._open()
        try:
            return process.submit(act, *values, **more).result()
        except BrokenProcessPool:
            with self._lock:
                if self._process is process:
                    self._process = None
            process.end()
            raise OutOfMemory(
                "the process that computes this was ended, for lack of memory it seems: close "
                "other programs and try again"
            ) from None

    def prepare(self, act: Callable[P, object], *values: P.args, **more: P.kwargs) -> None:
        """Start the process, and let it call a function, whose result nobody waits for."""
        self._open().submit(act, *values, **more)

    def close(self) -> None:
        """End the process, whatever it computes."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.end()

    def _open(self) -> _Process:
        with self._lock:
            if self._process is None:
                self._process = _Process()
            return self._process


def imported(*names: str) -> None:
    """Import modules: for `prepare`, so that they are there when they are needed."""
    for name in names:
        import_module(name)


class _Process(ProcessPoolExecutor):
    """One process, which lives until its lifeline is closed: by `end`, or because we are gone."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        theirs, self._lifeline = context.Pipe(duplex=False)
        super().__init__(1, context, _begin, (theirs,))

    def end(self) -> None:
        self._lifeline.close()
        self.shutdown(cancel_futures=True)  # waits: an interpreter must not end in between


def _begin(lifeline: Connection) -> None:
    """Give way to the page where the system can; Ctrl-C is for the program that started us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(5)

    def wait() -> None:
        with suppress(EOFError, OSError):
            lifeline.recv()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()

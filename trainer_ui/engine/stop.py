"""Ctrl-C and SIGTERM ask a run to stop after its step; a second Ctrl-C stops it at once."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NAME = "stop"  # of the file in a run's folder that asks the same, for systems without signals


class GracefulStop:
    """Context in which the first signal only sets `asked`; the handlers before are put back.

    folder: of the run. A file named `stop` in it asks for the same, and is removed in the end.
    """

    def __init__(self, folder: Path) -> None:
        self._file, self._signalled = folder / NAME, False
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether the run is to stop after its step."""
        return self._signalled or self._file.exists()

    def __enter__(self) -> GracefulStop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._file.unlink(missing_ok=True)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._signalled:
            raise KeyboardInterrupt
        self._signalled = True

"""Runs one drawing process at a time, and none while a job has the device."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from ..jobs import Job, JobRefused
from ..jobs.outcome import tail
from ..jobs.runner import lane
from .drawing import Request

ROOT = Path(__file__).resolve().parents[2]
LOG = ".log"
DRAWING = "The pictures are being drawn."


@dataclass
class Studio:
    """The process that draws. What it draws, and why it failed, lies beside the grid."""

    _out: Path | None = None
    _process: subprocess.Popen[bytes] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, request: Request, job: Job, jobs: list[Job]) -> None:
        """Draw for a job; raises JobRefused while its device is taken."""
        taken = [
            each.name for each in jobs if each.active and lane(each.device) == lane(job.device)
        ]
        if taken:
            raise JobRefused(f"{taken[0]} is training on this device: draw when it has ended")
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                raise JobRefused("other pictures are being drawn: wait for them")
            self._out = Path(request.out)
            self._out.unlink(missing_ok=True)
            order = self._out.with_suffix(".json")
            request.save(order)
            with self._out.with_suffix(LOG).open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "trainer_ui.app.drawing", str(order)],
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                )

    def note(self, out: Path) -> str:
        """Return what is to be said of a grid: that it is being drawn, or why it was not."""
        with self._lock:
            ended = self._process.poll() if self._out == out and self._process else 0
        if ended == 0:
            return ""
        if ended is None:
            return DRAWING
        lines = [line for line in tail(out.with_suffix(LOG)) if line.strip()]
        return lines[-1] if lines else "the drawing process ended without a word: out of memory?"

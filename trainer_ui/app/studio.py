"""Runs one drawing process at a time, and none while a job has the device."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from ..jobs import Job, JobRefused
from ..jobs.runner import lane
from .drawing import Request

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Studio:
    """The process that draws, and what it draws."""

    request: Request | None = None
    _process: subprocess.Popen[str] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, request: Request, job: Job, jobs: list[Job]) -> None:
        """Draw for a job; raises JobRefused while its device is taken."""
        taken = [
            each.name for each in jobs if each.active and lane(each.device) == lane(job.device)
        ]
        if taken:
            raise JobRefused(f"{taken[0]} is training on this device: draw when it has ended")
        with self._lock:
            if self.busy:
                raise JobRefused("other pictures are being drawn: wait for them")
            order = Path(request.out).with_suffix(".json")
            request.save(order)
            self.request = request
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trainer_ui.app.drawing", str(order)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )

    @property
    def busy(self) -> bool:
        """Whether something is being drawn."""
        return self._process is not None and self._process.poll() is None

    def failed(self) -> str:
        """Return why the last drawing failed, "" when it did not."""
        with self._lock:
            if self._process is None or self._process.poll() in (None, 0):
                return ""
            told = (
                self._process.communicate()[1].strip().splitlines() if self._process.stderr else []
            )
            self._process = None
            return told[-1] if told else "the drawing process ended without a word: out of memory?"

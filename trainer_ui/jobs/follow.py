"""Follow the events of a run: what is new is read, what a resumed run did again is replaced."""

from __future__ import annotations

import threading
from pathlib import Path

from pydantic import ValidationError

from ..engine import events

HEAD = 64  # bytes: the first event's time is among them
Point = tuple[int, float]


class Follower:
    """What the events of a run said until now. since: those before belong to another run."""

    def __init__(self, path: Path, since: float) -> None:
        self._path, self._since = path, since
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._offset, self._head = 0, b""
        self.measured: events.Measured | None = None
        self.start: events.Start | None = None
        self.last: events.Step | None = None
        self.losses: list[Point] = []
        self.rates: list[Point] = []
        self.validation: list[Point] = []
        self.samples: list[tuple[int, Path]] = []
        self.kept: list[tuple[int, Path]] = []
        self.checkpoint: int | None = None
        self.warnings: list[str] = []
        self.error = ""

    def read(self) -> None:
        """Read on; an event file that was begun anew is read from its start."""
        with self._lock:
            try:
                with self._path.open("rb") as file:
                    head = file.read(HEAD)
                    if self._head and not head.startswith(self._head):
                        self._forget()
                    file.seek(self._offset)
                    block = file.read()
            except OSError:  # not there yet, or no more
                return
            whole = block[: block.rfind(b"\n") + 1]
            self._offset += len(whole)
            if self._offset and not self._head:
                self._head = head[: min(HEAD, self._offset)]
            for line in whole.splitlines():
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            event = events.parse(line.decode("utf-8", "replace"))
        except ValidationError:  # cut off by a kill, or of a later version
            return
        if event.time < self._since:
            return
        match event:
            case events.Measured():
                self.measured = event
            case events.Start():
                self._begin(event)
            case events.Step():
                self._step(event)
            case events.Validation():
                self.validation.append((event.step, event.loss))
            case events.Sample():
                self.samples.append((event.step, Path(event.path)))
            case events.Saved():
                self.kept.append((event.step, Path(event.path)))
            case events.Checkpoint():
                self.checkpoint = event.step
            case events.Warned():
                self.warnings.append(event.message)
            case events.Done():
                self.kept.append((event.steps, Path(event.path)))
                self.checkpoint = None
            case events.Failed():
                self.error = event.message

    def _begin(self, event: events.Start) -> None:
        """Take back what was done after the checkpoint: it is done again."""
        self.measured, self.start, self.last, self.error = None, event, None, ""
        for points in (self.losses, self.rates, self.validation):
            while points and points[-1][0] > event.step:
                points.pop()
        for files in (self.samples, self.kept):
            while files and files[-1][0] > event.step:
                files.pop()

    def _step(self, event: events.Step) -> None:
        self.last = event
        self.rates.append((event.step, event.lr))
        if event.loss is not None:
            self.losses.append((event.step, event.loss))

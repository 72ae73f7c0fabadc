"""One training job, as the queue knows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shira_core.errors import ShiraError

State = Literal["queued", "running", "stopping", "stopped", "done", "failed"]
ACTIVE = ("running", "stopping")


class JobRefused(ShiraError):
    """What was asked for cannot be done with a job in its state."""


@dataclass(frozen=True)
class Job:
    """A run that waits, goes on or is over.

    toml: its settings, with absolute paths. out: the adapter that it writes.
    created, started, resumed, ended: seconds since 1970, None for what has not happened; resumed is
    when its process was started last. message: one line for a person, "" when there is nothing to
    say. device: as in the settings. folder: its private files, `config.toml` and `log.txt`.
    """

    id: int
    name: str
    state: State
    toml: str
    out: Path
    created: float
    started: float | None
    resumed: float | None
    ended: float | None
    message: str
    device: str
    folder: Path

    @property
    def active(self) -> bool:
        """Whether it has a process."""
        return self.state in ACTIVE

    @property
    def run_folder(self) -> Path:
        """`style.run` beside `style.shira`."""
        return self.out.with_suffix(".run")

    @property
    def config(self) -> Path:
        """The settings that its process reads."""
        return self.folder / "config.toml"

    @property
    def log(self) -> Path:
        """What its last process printed."""
        return self.folder / "log.txt"

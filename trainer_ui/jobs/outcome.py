"""How the process of a job has ended, from what it left behind."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from ..engine import checkpoint, events
from .job import Job, State

TAIL = 1 << 16  # bytes: the last events are in there
CLOCK = 0.01  # seconds that an event's time is rounded by
COMPLAINT = "shira train: "
CRASH = "Traceback (most recent call last)"


def outcome(job: Job) -> tuple[State, str]:
    """Return the state of a job whose process is gone, and a line for a person."""
    last = _last_event(job)
    if isinstance(last, events.Done):
        return "done", ""
    if isinstance(last, events.Failed):
        return "failed", last.message
    if isinstance(last, events.Stopped):
        return "stopped", _remedy(job)
    if complaint := _complaint(job.log):
        return "failed", complaint
    if job.state == "stopping":
        return "stopped", _remedy(job)
    return "stopped", f"its process ended without a word, killed or out of memory: {_remedy(job)}"


def resumable(job: Job) -> bool:
    """Tell whether a job has a checkpoint of its own to go on from."""
    return job.started is not None and checkpoint.exists(job.run_folder)


def _remedy(job: Job) -> str:
    if resumable(job):
        return "resume goes on from the last checkpoint"
    return "there is no checkpoint yet: resume starts anew"


def _last_event(job: Job) -> events.Event | None:
    """Return the event that ended the last process, None where it told of no end."""
    for line in reversed(tail(job.run_folder / events.NAME)):
        try:
            event = events.parse(line)
        except ValidationError:  # cut off, or of a later version
            continue
        if event.time < (job.resumed or 0) - CLOCK:
            return None
        return event
    return None


def tail(path: Path, length: int = TAIL) -> list[str]:
    """Return the last lines of a file, none when there is no file; the first may be cut off."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - length))
            return file.read(length).decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def _complaint(log: Path) -> str:
    """Return the error that a process printed at its end, "" when it was cut short."""
    lines = [line for line in tail(log) if line.strip()]
    if not lines:
        return ""
    if lines[-1].startswith(COMPLAINT):
        return lines[-1].removeprefix(COMPLAINT)
    crashed = any(line.startswith(CRASH) for line in lines)
    return lines[-1] if crashed else ""

"""The queue as rows of the page, and what their buttons do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from shira_core.errors import InvalidValue

from ..jobs import Job, Progress, progress
from . import words
from .desk import Desk

ACTS: dict[str, tuple[str, ...]] = {
    "queued": ("up", "down", "stop", "rename", "duplicate", "delete"),
    "running": ("stop", "rename", "duplicate"),
    "stopping": ("stop", "rename", "duplicate"),
    "stopped": ("resume", "rename", "duplicate", "delete"),
    "failed": ("resume", "rename", "duplicate", "delete"),
    "done": ("rename", "duplicate", "delete"),
}
STILL = ("done", "queued")  # whatever their runs told, nothing of it is shown


def rows(jobs: Sequence[Job], shown: Job | None) -> list[dict[str, Any]]:
    """Return the value of the queue's widget."""
    return [_row(job, shown) for job in jobs]


def act(desk: Desk, id: int, name: str, text: str) -> None:
    """Do what a button says; raises our errors."""
    acts: dict[str, Callable[[], object]] = {
        "stop": lambda: desk.runner.stop(id),
        "resume": lambda: desk.runner.resume(id),
        "delete": lambda: desk.runner.delete(id),
        "rename": lambda: desk.store.rename(id, text),
        "duplicate": lambda: desk.store.duplicate(id),
        "up": lambda: desk.store.move(id, -1),
        "down": lambda: desk.store.move(id, 1),
    }
    if name not in acts:
        raise InvalidValue(
            f"{name!r:.40} is nothing that can be done with a job: load the page anew"
        )
    acts[name]()


def _row(job: Job, shown: Job | None) -> dict[str, Any]:
    told = progress(job) if job.state not in STILL else Progress()
    share = 1.0 if job.state == "done" else told.step / told.steps if told.steps else 0.0
    return {
        "id": job.id,
        "name": job.name,
        "state": job.state,
        "detail": detail(job, told),
        "share": share,
        "acts": list(ACTS[job.state]),
        "shown": shown is not None and shown.id == job.id,
    }


def detail(job: Job, told: Progress) -> str:
    """Return how far a job is, in words."""
    parts = [job.message] if job.message else []
    if told.measured:
        parts.insert(0, "measuring which entries to train, {} of {}".format(*told.measured))
    elif told.steps:
        parts.insert(0, f"step {told.step} of {told.steps}")
    elif job.state == "running":
        parts.insert(0, "opening the base and encoding the pictures")
    if job.state == "running" and told.seconds_left is not None:
        parts.append(f"{words.duration(told.seconds_left)} left")
    return " · ".join(parts)

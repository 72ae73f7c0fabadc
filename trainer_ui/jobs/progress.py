"""How far a job is, read from what its run tells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..engine import events
from .follow import Follower, Point
from .job import Job
from .outcome import tail
from .store import settings_of

ROUNDED = 0.01  # seconds: the times of events are
LINES = 200  # of the log


@dataclass(frozen=True)
class Sample:
    """A PNG with a row of pictures for the base, and one for each alpha."""

    step: int
    path: Path
    alphas: tuple[float, ...]


@dataclass(frozen=True)
class Kept:
    """An adapter that was written on the way or, with the last step, at the end."""

    step: int
    path: Path


@dataclass(frozen=True)
class Progress:
    """A job in numbers. step 0 of 0: nothing is told yet, the log says what is done.

    measured: batches that showed which entries to train, and all of them, before the steps.
    losses, rates, validation: (step, value). seconds_left: None unless it measures or trains.
    seconds_per_step: with all that was done between the steps, None before the first.
    memory: most bytes of the GPU that were taken, None without one. checkpoint: the step that
    it would be resumed from. log: the last lines that were printed. error: one line, or "".
    """

    step: int = 0
    steps: int = 0
    measured: tuple[int, int] | None = None
    losses: tuple[Point, ...] = ()
    rates: tuple[Point, ...] = ()
    validation: tuple[Point, ...] = ()
    seconds_left: float | None = None
    seconds_per_step: float | None = None
    memory: int | None = None
    samples: tuple[Sample, ...] = ()
    checkpoints: tuple[Kept, ...] = ()
    checkpoint: int | None = None
    warnings: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    error: str = ""


def progress(job: Job) -> Progress:
    """Return how far a job is. Reads what is new since the last call."""
    if job.started is None:
        return Progress(error=job.message if job.state == "failed" else "")
    told = _follower(job.run_folder / events.NAME, job.started - ROUNDED)
    told.read()
    start, last, measured = told.start, told.last, told.measured
    ahead = measured or last
    return Progress(
        step=last.step if last else start.step if start else 0,
        steps=start.steps if start else 0,
        measured=(measured.batch, measured.batches) if measured else None,
        losses=tuple(told.losses),
        rates=tuple(told.rates),
        validation=tuple(told.validation),
        seconds_left=ahead.eta if ahead and job.active else None,
        seconds_per_step=_pace(start, last),
        memory=last.memory if last else None,
        samples=tuple(Sample(step, path, _alphas(job.toml)) for step, path in told.samples),
        checkpoints=tuple(Kept(step, path) for step, path in told.kept),
        checkpoint=told.checkpoint,
        warnings=tuple(told.warnings),
        log=tuple(tail(job.log)[-LINES:]),
        error=job.message if job.state == "failed" else "",
    )


def _pace(start: events.Start | None, last: events.Step | None) -> float | None:
    if start is None or last is None or last.step <= start.step:
        return None
    return (last.time - start.time) / (last.step - start.step)


@lru_cache(maxsize=256)  # jobs: one that is forgotten is read from its start
def _follower(path: Path, since: float) -> Follower:
    return Follower(path, since)


@lru_cache(maxsize=64)
def _alphas(toml: str) -> tuple[float, ...]:
    return settings_of(toml).sample_alphas

"""How far a job is, read from what its run tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .job import Job

Point = tuple[int, float]


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

    losses, rates, validation: (step, value). seconds_left: None unless it trains.
    memory: most bytes of the GPU that were taken, None without one. checkpoint: the step that
    it would be resumed from. log: the last lines that were printed. error: one line, or "".
    """

    step: int = 0
    steps: int = 0
    losses: tuple[Point, ...] = ()
    rates: tuple[Point, ...] = ()
    validation: tuple[Point, ...] = ()
    seconds_left: float | None = None
    memory: int | None = None
    samples: tuple[Sample, ...] = ()
    checkpoints: tuple[Kept, ...] = ()
    checkpoint: int | None = None
    warnings: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    error: str = ""


def progress(job: Job) -> Progress:
    """Return how far a job is. Reads what is new since the last call, at most some megabytes."""
    raise NotImplementedError


def thin(points: Sequence[Point], count: int = 500) -> list[Point]:
    """Return about `count` points, each the mean of its neighbours: what a chart can show."""
    raise NotImplementedError

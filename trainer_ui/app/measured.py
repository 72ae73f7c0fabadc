"""How long a step takes on this machine, from runs that were like the one that is planned."""

from __future__ import annotations

from ..engine.config import Config, dump
from ..jobs import Job, Store, progress

# What a step's time depends on most; the rest changes it by less than other programs do.
ALIKE = (
    "base",
    "batch_size",
    "accumulate",
    "resolution",
    "mask",
    "layers",
    "gradient_checkpointing",
)


def seconds_per_step(store: Store, config: Config) -> float | None:
    """Return the time of the latest run that was alike, None when there was none."""
    lines = {f"{name} = " for name in ALIKE}
    wanted = _of(dump(config), lines)
    alike = [job for job in store.all() if _of(job.toml, lines) == wanted and job.started]
    for job in sorted(alike, key=lambda job: -(job.started or 0)):
        found = _measured(job)
        if found is not None:
            return found
    return None


def _measured(job: Job) -> float | None:
    told = progress(job)
    if told.seconds_left and told.steps > told.step:
        return told.seconds_left / (told.steps - told.step)
    if (
        job.state == "done"
        and job.started == job.resumed
        and job.ended
        and job.started
        and told.steps
    ):
        return (job.ended - job.started) / told.steps
    return None


def _of(toml: str, starts: set[str]) -> set[str]:
    return {line for line in toml.splitlines() if any(map(line.startswith, starts))}

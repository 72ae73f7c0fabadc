"""How long a step takes on this machine: from runs like the planned one, or timed for it."""

from __future__ import annotations

from ..engine import timing
from ..engine.config import Config, dump
from ..jobs import progress
from .desk import Desk

# What a step's time depends on most; the rest changes it by less than other programs do.
ALIKE = (
    *("base", "device", "batch_size", "accumulate", "resolution", "mask", "layers", "dora"),
    *("text_lr", "optimizer", "precision", "weights", "gradient_checkpointing", "capture"),
)


def seconds_per_step(desk: Desk, config: Config) -> float | None:
    """Return the time of the latest run that was alike, else what was timed, else None."""
    wanted = alike(dump(config))
    runs = [job for job in desk.store.all() if job.started and alike(job.toml) == wanted]
    for job in sorted(runs, key=lambda job: -(job.started or 0)):
        if (found := progress(job).seconds_per_step) is not None:
            return found
    timed = desk.timed.read().get(wanted)
    return timed if isinstance(timed, float) else None


def time(desk: Desk, config: Config) -> None:
    """Train some steps for their time, and keep it; raises our errors."""
    with desk.runner.held(config.device):
        try:
            seconds = desk.timer.call(timing.seconds_per_step, config)
        finally:
            desk.timer.close()  # with it goes the memory of the GPU
    desk.timed.write({**desk.timed.read(), alike(dump(config)): seconds})


def alike(toml: str) -> str:
    """Return the settings that a step's time depends on."""
    starts = tuple(f"{name} = " for name in ALIKE)
    return "\n".join(sorted(line for line in toml.splitlines() if line.startswith(starts)))

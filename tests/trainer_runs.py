"""A short training run, and what several test files ask of one."""

from __future__ import annotations

import json
from pathlib import Path

STEPS = 12
SETTINGS: dict[str, object] = {
    "steps": STEPS,
    "batch_size": 2,
    "lr": 1e-2,
    "threads": 1,
    "checkpoint_every": 3,
    "sample_steps": 2,
    "sample_count": 1,
    "trigger": "box style",
}


def flags(settings: dict[str, object]) -> list[str]:
    """Return the settings as flags of the command line."""
    names = {name: name.replace("_", "-") for name in settings}
    return [
        f"--{names[name]}" if value is True else f"--{names[name]}={value}"
        for name, value in settings.items()
    ]


def events(folder: Path) -> list[dict[str, object]]:
    """Return the events of a run folder."""
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]

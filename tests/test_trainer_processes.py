"""Two processes train what one does with twice the accumulation."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("diffusers")
from trainer_runs import events, flags, start

import shira_core as shira
from trainer_ui.engine.config import load
from trainer_ui.engine.loop import train

Settings = dict[str, object]


def train_in_two(settings: Settings) -> list[tuple[int, str, str]]:
    """Run the trainer as a launcher does; return code, output and errors of each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "shira_core.cli", "train", *flags(settings)]
    ranks = [{**common, "RANK": str(n), "LOCAL_RANK": str(n)} for n in range(2)]
    processes = [start(command, rank) for rank in ranks]
    ended = [(process.communicate(timeout=300), process) for process in processes]
    return [(process.returncode, out, error) for (out, error), process in ended]


def values(path: Path) -> dict[str, torch.Tensor]:
    weights = shira.load(path).weights
    return {name: weights[name].values for name in weights}


def test_two_processes_train_what_one_does_with_twice_the_accumulation(
    settings: Settings,
) -> None:
    short: Settings = {**settings, "steps": 3, "sample_count": 0, "device": "cpu"}
    short |= {"dtype": "float32", "validation": 0.34, "ema": 0.9, "mask": "grad"}
    short |= {"calibration": 1}
    ended = train_in_two({**short, "save_every": 2})
    assert [code for code, _, _ in ended] == [0, 0], ended
    out = Path(str(settings["out"]))
    two, told = values(out), events(out.with_suffix(".run"))
    assert "wrote" in ended[0][1]
    assert "wrote" not in ended[1][1]
    assert next(each["processes"] for each in told if each["event"] == "start") == 2
    assert train(load(None, {**short, "accumulate": 2, "overwrite": True})) is not None
    one = values(out)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name])
    losses = [
        [event["loss"] for event in each if event["event"] == "step"]
        for each in (told, events(out.with_suffix(".run")))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)

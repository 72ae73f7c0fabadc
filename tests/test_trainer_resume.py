"""Runs that are killed, stopped or out of space, and what they give when they go on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("resource", reason="Windows limits no resources")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import resource

from trainer_runs import events, flags, start_without_network, wait_until

import shira_core as shira
from shira_core.errors import FileExists
from trainer_ui.engine import checkpoint
from trainer_ui.engine.cli import main, train_command
from trainer_ui.engine.config import load
from trainer_ui.engine.errors import TrainingFailed
from trainer_ui.engine.loop import train

Settings = dict[str, object]
Watch = Callable[[int, torch.nn.Module], None]


def signalling(step: int, times: int = 1) -> Watch:
    """Return a watch that presses Ctrl-C during a step."""

    def watch(now: int, unet: torch.nn.Module) -> None:
        if now == step:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    return watch


@contextmanager
def limited(kind: int, size: int) -> Iterator[None]:
    """Limit one of the process's resources."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def remains(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.endswith(".tmp")]


def test_a_stopped_run_resumes_after_a_full_disk(
    settings: Settings, trained: tuple[Path, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends with a checkpoint; no space left ends with one line and keeps it."""
    out = Path(str(settings["out"]))
    folder = out.with_suffix(".run")
    assert train(load(None, settings), signalling(4)) is None
    assert "--resume" in capsys.readouterr().out
    assert events(folder)[-1]["event"] == "stopped"
    assert not out.exists()

    before = (folder / "checkpoint.safetensors").read_bytes()
    with limited(resource.RLIMIT_FSIZE, 20_000):
        assert main(["run", str(folder / "config.toml"), "--resume"]) == 1
    error = capsys.readouterr().err
    assert "no space left" in error
    assert len(error.strip().splitlines()) == 1
    assert (folder / "checkpoint.safetensors").read_bytes() == before
    assert not remains(out.parent)

    assert main(["run", str(folder / "config.toml"), "--resume"]) == 0
    assert out.read_bytes() == trained[0].read_bytes()


KINDS: tuple[Settings, ...] = (
    {"mask": "struct", "accumulate": 2},
    {"dora": True, "flip": True, "ema": 0.9, "precision": "fp16"},
    {"optimizer": "adafactor", "text_lr": 1e-2, "block_density": ["mid=0.1", "te1*=0.05"]},
    {"mask": "moved", "calibration": 3, "text_lr": 1e-3},
    {"optimizer": "prodigy", "lr": 1.0, "validation": 0.34, "save_every": 2, "debiased": True},
)


@pytest.mark.parametrize("more", KINDS, ids=lambda more: "-".join(map(str, more)))
def test_every_kind_of_run_resumes_exactly(settings: Settings, more: Settings) -> None:
    """Also when the last sample of the stopped run was not the final one; none is left out."""
    if more.get("optimizer") == "prodigy":
        pytest.importorskip("prodigyopt")
    short = {**settings, **more, "steps": 4, "sample_every": 3}
    assert train(load(None, short)) is not None
    whole = Path(str(settings["out"])).read_bytes()
    samples = Path(str(settings["out"])).with_suffix(".run") / "samples"
    shutil.rmtree(samples)
    assert train(load(None, {**short, "overwrite": True}), signalling(3)) is None
    assert train(load(None, {**short, "overwrite": True, "resume": True})) is not None
    assert Path(str(settings["out"])).read_bytes() == whole
    assert sorted(path.stem for path in samples.iterdir()) == ["step-000003", "step-000004"]


def test_a_run_that_goes_on_has_the_entries_that_it_had(settings: Settings) -> None:
    """Measured again, a mask may be another one; where the file is damaged it is measured again."""
    short = {**settings, "mask": "grad", "calibration": 1, "steps": 4, "sample_count": 0}
    out = Path(str(settings["out"]))
    assert train(load(None, short), signalling(2)) is None
    kept = out.with_suffix(".run") / "entries.safetensors"
    positions = load_file(kept)
    assert train(load(None, {**short, "resume": True})) is not None
    assert not kept.exists()
    weights = shira.load(out).weights
    assert sum(map(len, positions.values())) == sum(weights.count(name) for name in weights)
    assert train(load(None, {**short, "overwrite": True}), signalling(2)) is None
    kept.write_bytes(kept.read_bytes()[:100])
    assert train(load(None, {**short, "resume": True, "overwrite": True})) is not None


def steps_told(folder: Path, kind: str) -> list[int]:
    """The steps of the whole lines of a kind; some may be half written."""
    path = folder / "events.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    told = [json.loads(line) for line in lines if line.endswith("}")]
    return [each["step"] for each in told if each["event"] == kind]


@pytest.mark.parametrize(("every", "stop"), [(1, 2), (1, 3), (0, 3)])
def test_a_stop_while_pictures_are_drawn_loses_none(
    settings: Settings, every: int, stop: int
) -> None:
    """It stops at the step whose pictures are missing, with all that a stop leaves."""
    more = {"steps": 3, "sample_every": every, "sample_steps": 100, "checkpoint_every": 0}
    wanted = [1, 2, 3] if every else [3]
    run = Path(str(settings["out"])).with_suffix(".run")

    def soon(step: int, unet: torch.nn.Module) -> None:
        if step == stop:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    assert train(load(None, {**settings, **more}), soon) is None
    drawn = [f"step-{step:06}.png" for step in wanted if step < stop]
    assert sorted(path.name for path in run.glob("samples/*")) == drawn
    assert checkpoint.exists(run)
    assert (run / f"style-{stop:06}.shira").is_file()
    assert train(load(None, {**settings, **more, "resume": True}))
    told = [event["step"] for event in events(run) if event["event"] == "sample"]
    assert told == wanted


def test_killed_at_any_moment_a_run_loses_at_most_the_last_interval(
    settings: Settings, trained: tuple[Path, object]
) -> None:
    """Killed twice, most likely while it writes, without network; refused to others meanwhile."""
    out = Path(str(settings["out"]))
    folder, moments = out.with_suffix(".run"), random.Random(0)
    often = flags({**settings, "checkpoint_every": 1, "sample_count": 0})
    for number, step in enumerate((2, 8)):
        process = start_without_network(["train", *often, *(["--resume"] if number else [])])
        wait_until(process, lambda step=step: step in steps_told(folder, "step"))
        with pytest.raises(FileExists, match=r"a run that goes on \(process \d+\)"):
            train(load(None, {**settings, "resume": True}))
        time.sleep(moments.random() / 10)
        process.kill()
        process.communicate()
        kept = checkpoint.load(folder)[0].step
        assert kept >= steps_told(folder, "step")[-1] - 1
        assert not out.exists()
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"event": "st')  # what a power cut may leave
    (folder / ".checkpoint.safetensors.0.tmp").write_bytes(b"cut")
    assert train_command([*flags(settings), "--resume"]) == 0
    assert steps_told(folder, "start") == sorted(steps_told(folder, "start"))
    assert '"done"' in (folder / "events.jsonl").read_text().splitlines()[-1]
    assert out.read_bytes() == trained[0].read_bytes()
    assert not remains(out.parent)
    assert not (folder / ".lock").exists()


def test_a_loss_that_is_no_number_names_pictures_and_keeps_the_checkpoint(
    settings: Settings,
) -> None:
    """A weight is spoilt after the fourth step; the checkpoint is of the third."""

    def spoil(step: int, unet: torch.nn.Module) -> None:
        if step == 4:
            with torch.no_grad():
                next(unet.parameters()).fill_(float("nan"))

    folder = Path(str(settings["out"])).with_suffix(".run")
    with pytest.raises(
        TrainingFailed, match=r"at step 5, with the pictures \d\.png, \d\.png: "
    ) as e:
        train(load(None, {**settings, "sample_count": 0}), spoil)
    assert "\n" not in str(e.value)
    assert checkpoint.load(folder)[0].step == 3
    assert events(folder)[-1]["message"] == str(e.value)
    assert train_command([*flags(settings), "--resume"]) == 0


def test_the_second_ctrl_c_stops_at_once_and_keeps_the_checkpoint(settings: Settings) -> None:
    out = Path(str(settings["out"]))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(load(None, settings), signalling(4, times=2))
    assert signal.getsignal(signal.SIGINT) is before
    assert not out.exists()
    assert not remains(out.parent)
    assert train_command([*flags(settings), "--resume"]) == 0


def test_ctrl_c_before_the_first_step_leaves_no_adapter(settings: Settings) -> None:
    out = Path(str(settings["out"]))
    process = start_without_network(["train", *flags(settings)])
    wait_until(process, (out.with_suffix(".run") / "config.toml").exists)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert len(error.strip().splitlines()) == 1, error
    assert not out.exists()
    assert not remains(out.parent)


def test_out_of_memory_is_one_line_with_remedies(settings: Settings) -> None:
    def full(step: int, unet: torch.nn.Module) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(TrainingFailed, match="GPU is out of memory: lower batch_size"):
        train(load(None, settings), full)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = pages * resource.getpagesize() + 400_000_000
    large = {**settings, "batch_size": 100_000, "overwrite": True, "sample_count": 0}
    with (
        limited(resource.RLIMIT_AS, room),
        pytest.raises(TrainingFailed, match="computer is out of memory: lower batch_size"),
    ):
        train(load(None, large))
    assert not Path(str(settings["out"])).exists()

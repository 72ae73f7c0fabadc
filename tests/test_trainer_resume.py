"""Runs that are killed, stopped or out of space, and what they give when they go on."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

pytest.importorskip("resource", reason="Windows limits no resources")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import resource

from trainer_runs import STEPS, events, flags

from trainer_ui.engine.cli import main, train_command
from trainer_ui.engine.config import load
from trainer_ui.engine.errors import TrainingFailed
from trainer_ui.engine.loop import train

ROOT = Path(__file__).resolve().parent.parent
Settings = dict[str, object]
Watch = Callable[[int, torch.nn.Module], None]
# A process that cannot open a connection, for systems without network namespaces.
NO_SOCKETS = """
import socket, sys
def refuse(*_):
    raise OSError("there is no network")
socket.socket.connect = socket.getaddrinfo = refuse
from shira_core.cli import main
sys.exit(main())
"""


def start_without_network(arguments: list[str]) -> subprocess.Popen[str]:
    """Start `shira` in the checkout, in an empty network namespace where the system has them."""
    command = [sys.executable, "-c", NO_SOCKETS, *arguments]
    isolate = [shutil.which("unshare") or "unshare", "-rn"]
    if shutil.which("unshare") and subprocess.run([*isolate, "true"], check=False).returncode == 0:
        command = [*isolate, *command]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def wait_for(process: subprocess.Popen[str], path: Path) -> None:
    """Return when the path is there and the process goes on."""
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


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


def test_a_killed_run_without_network_resumes_to_the_same_bytes(
    settings: Settings, trained: tuple[Path, object]
) -> None:
    out = Path(str(settings["out"]))
    folder = out.with_suffix(".run")
    process = start_without_network(["train", *flags(settings)])
    wait_for(process, folder / "checkpoint.safetensors")
    process.kill()
    process.communicate()
    assert not out.exists()
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"event": "st')  # what a power cut may leave
    (folder / ".checkpoint.safetensors.0.tmp").write_bytes(b"cut")
    assert train_command([*flags(settings), "--resume"]) == 0
    assert out.read_bytes() == trained[0].read_bytes()
    assert not remains(out.parent)
    last = (folder / "events.jsonl").read_text().splitlines()[-STEPS:]
    assert any('"done"' in line for line in last)


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


@pytest.mark.parametrize(
    "more", [{"mask": "struct", "accumulate": 2}, {"dora": True, "flip": True}], ids=str
)
def test_every_kind_of_run_resumes_exactly(settings: Settings, more: Settings) -> None:
    """Also when the last sample of the stopped run was not the final one."""
    short = {**settings, **more, "steps": 4, "sample_every": 3}
    assert train(load(None, short)) is not None
    whole = Path(str(settings["out"])).read_bytes()
    assert train(load(None, {**short, "overwrite": True}), signalling(3)) is None
    assert train(load(None, {**short, "overwrite": True, "resume": True})) is not None
    assert Path(str(settings["out"])).read_bytes() == whole


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
    wait_for(process, out.with_suffix(".run") / "config.toml")
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

"""Whole training runs on a tiny base: the file, its bytes after a stop or a kill, every refusal."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from PIL import Image

import shira_core as shira
from shira_core import keymaps
from shira_core.names import UNET
from trainer_ui.engine.base import open_base
from trainer_ui.engine.cli import main, train_command
from trainer_ui.engine.config import load
from trainer_ui.engine.loop import train

STEPS = 30
SETTINGS = {
    "steps": STEPS,
    "batch_size": 2,
    "lr": 1e-2,
    "threads": 1,
    "checkpoint_every": 5,
    "sample_steps": 2,
    "sample_count": 1,
    "trigger": "box style",
}
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def settings(tiny_base: Path, pictures: Path, tmp_path: Path) -> dict[str, object]:
    paths = {"base": tiny_base, "images": pictures, "out": tmp_path / "style.shira"}
    return {**SETTINGS, **{name: str(path) for name, path in paths.items()}}


@pytest.fixture(scope="module")
def reference(
    tiny_base: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, torch.Tensor]]:
    """The adapter of an uninterrupted run, and the UNet's weights after its last step."""
    out = tmp_path_factory.mktemp("reference") / "style.shira"
    weights: dict[str, torch.Tensor] = {}

    def watch(step: int, unet: torch.nn.Module) -> None:
        if step == STEPS:
            weights.update({name: value.clone() for name, value in unet.state_dict().items()})

    paths = {"base": tiny_base, "images": pictures, "out": out}
    path = train(load(None, {**SETTINGS, **paths}), watch)
    assert path == out
    return out, weights


def flags(settings: dict[str, object]) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]


def events(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def start(
    arguments: list[str], limit: int | None = None, module: str = "shira_core.cli"
) -> subprocess.Popen[str]:
    """Start a real process in the checkout, with an optional limit of every file's size."""

    def restrict() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=restrict,
    )


def wait_for_checkpoint(process: subprocess.Popen[str], folder: Path) -> None:
    """Return when the first checkpoint is written and the run goes on."""
    while not (folder / "checkpoint.safetensors").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def test_the_file_gives_the_trained_weights_bit_for_bit(
    tiny_base: Path, reference: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    """Two ways: W + delta in dense arithmetic, and the weights as training left them."""
    path, trained = reference
    adapter = shira.load(path)
    unet = open_base(tiny_base).unet
    names = {n: s.name for n, s in keymaps.unet(unet.state_dict(), UNET).items()}
    changed = 0
    for name, value in unet.state_dict().items():
        if names[name] in adapter.weights:
            delta = adapter.weights[names[name]]
            value = value + delta.dense().view(value.shape)
            changed += 1
        assert torch.equal(value, trained[name]), name
    assert changed == len(adapter.weights) > 50


def test_apply_gives_the_trained_weights_too(
    tiny_base: Path, reference: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    path, trained = reference
    unet = open_base(tiny_base).unet
    names = {n: s.name for n, s in keymaps.unet(unet.state_dict(), UNET).items()}
    target = {names[name]: value for name, value in unet.state_dict().items()}
    with shira.apply(target, [(shira.load(path), 1.0)]):
        assert all(torch.equal(target[names[name]], value) for name, value in trained.items())


def test_the_header_tells_the_story(
    tiny_base: Path, reference: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    header = shira.load(reference[0]).header
    assert (header.architecture, header.base) == ("sd15-compact", "tiny")
    assert header.base_sha256 == open_base(tiny_base).sha256
    assert (header.mask, header.density, header.seed) == ("wm", 0.02, 0)
    assert header.triggers == ("box style",)
    assert header.training["steps"] == STEPS
    assert header.training["pictures"] == 6
    assert header.extra["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
    assert len(header.extra["modelspec.thumbnail"]) < 100_000


def test_the_run_folder_tells_the_run(reference: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder = reference[0].with_suffix(".run")
    told = events(folder)
    kinds = [event["event"] for event in told]
    assert kinds[0] == "start"
    assert kinds[-1] == "done"
    assert kinds.count("step") == STEPS
    steps = [event for event in told if event["event"] == "step"]
    assert {"loss", "lr", "eta", "time", "step"} <= steps[0].keys()
    with Image.open(folder / "samples" / f"step-{STEPS:06}.png") as grid:
        assert grid.width >= 128
    assert not (folder / "checkpoint.safetensors").exists()
    assert load(folder / "config.toml", {}).steps == STEPS


def test_a_killed_run_resumes_to_the_same_bytes(
    settings: dict[str, object], reference: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    out = Path(str(settings["out"]))
    process = start(["train", *flags(settings)])
    wait_for_checkpoint(process, out.with_suffix(".run"))
    process.kill()
    process.communicate()
    assert not out.exists()
    assert train_command([*flags(settings), "--resume"]) == 0
    assert out.read_bytes() == reference[0].read_bytes()


def test_a_stopped_run_resumes_after_a_full_disk(
    settings: dict[str, object], reference: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    """Ctrl-C ends with 0 and a checkpoint; no space left ends with one line and keeps it."""
    out = Path(str(settings["out"]))
    folder = out.with_suffix(".run")
    file = out.with_suffix(".toml")
    file.write_text("".join(f"{name} = {json.dumps(v)}\n" for name, v in settings.items()))
    process = start(["run", str(file)], module="trainer_ui.engine")
    wait_for_checkpoint(process, folder)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert "--resume" in stdout
    assert not out.exists()

    before = (folder / "checkpoint.safetensors").read_bytes()
    process = start(["run", str(file), "--resume"], limit=100_000, module="trainer_ui.engine")
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert len(stderr.strip().splitlines()) == 1, stderr
    assert (folder / "checkpoint.safetensors").read_bytes() == before
    assert not [path.name for path in folder.iterdir() if "tmp" in path.name]

    assert main(["run", str(file), "--resume"]) == 0
    assert out.read_bytes() == reference[0].read_bytes()


def test_loss_falls(settings: dict[str, object], tmp_path: Path) -> None:
    more = {"density": 0.5, "steps": 40, "min_snr_gamma": 0.0, "sample_count": 0, "flip": True}
    train(load(None, {**settings, **more}))
    losses = [e["loss"] for e in events(tmp_path / "style.run") if e["event"] == "step"]
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])  # type: ignore[arg-type, type-var]


@pytest.mark.parametrize(
    "more",
    [
        {"mask": "struct"},
        {"mask": "rand", "rank": 1},
        {"mask": "grad", "calibration": 2},
        {"mask": "snip", "calibration": 1, "layers": "attention"},
        {"accumulate": 2, "gradient_checkpointing": True, "schedule": "constant"},
        {"prediction": "v_prediction", "dtype": "bfloat16", "precision": "bf16"},
    ],
    ids=lambda more: "-".join(map(str, more.values())),
)
def test_every_kind_of_run(settings: dict[str, object], more: dict[str, object]) -> None:
    path = train(load(None, {**settings, **more, "steps": 2, "sample_count": 0}))
    assert path is not None
    adapter = shira.load(path)
    assert adapter.entries > 0
    assert adapter.header.mask == more.get("mask", "wm")
    assert all(torch.isfinite(adapter.weights[name].values).all() for name in adapter.weights)


def existing(settings: dict[str, object]) -> None:
    Path(str(settings["out"])).write_bytes(b"precious")


def unfinished(settings: dict[str, object]) -> None:
    """Leave the folder of a run that was stopped, of other settings."""
    with pytest.raises(InterruptedError):
        train(load(None, {**settings, "steps": 4, "checkpoint_every": 1, "seed": 5}), _interrupt)


def _interrupt(step: int, unet: torch.nn.Module) -> None:
    if step == 2:
        raise InterruptedError


def empty_images(settings: dict[str, object]) -> None:
    settings["images"] = str(Path(str(settings["out"])).parent)


def pickled_base(settings: dict[str, object]) -> None:
    settings["base"] = str(Path(str(settings["out"])).with_suffix(".ckpt"))
    Path(str(settings["base"])).write_bytes(b"x")


REFUSED: dict[str, tuple[Callable[[dict[str, object]], None], list[str], str]] = {
    "output exists": (existing, [], "--overwrite"),
    "unfinished run": (unfinished, [], "--resume"),
    "changed settings": (unfinished, ["--resume"], "steps was 4 and is now 30"),
    "nothing to resume": (lambda settings: None, ["--resume"], "nothing to resume"),
    "no pictures": (empty_images, [], "no pictures in"),
    "pickle": (pickled_base, [], "is a pickle"),
    "unknown device": (lambda settings: None, ["--device=warp"], "use auto or cpu"),
    "wrong value": (lambda settings: None, ["--density=0"], "density = 0.0"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_are_one_line_and_exit_code_1(
    settings: dict[str, object], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, more, expected = REFUSED[kind]
    prepare(settings)
    capsys.readouterr()
    assert train_command([*flags(settings), *more]) == 1
    stderr = capsys.readouterr().err
    assert expected in stderr
    assert len(stderr.strip().splitlines()) == 1
    if kind == "output exists":
        assert Path(str(settings["out"])).read_bytes() == b"precious"

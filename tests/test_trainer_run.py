"""Whole training runs on a tiny base: the file, its header, the run folder, every kind of run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from PIL import Image
from safetensors import safe_open
from trainer_runs import STEPS, events

import shira_core as shira
from shira_core import keymaps
from shira_core.cli import main as shira_main
from shira_core.names import UNET
from trainer_ui.engine.base import open_base
from trainer_ui.engine.config import load
from trainer_ui.engine.loop import train

Trained = tuple[Path, dict[str, torch.Tensor]]


def original_names(unet: torch.nn.Module) -> dict[str, str]:
    return {name: source.name for name, source in keymaps.unet(unet.state_dict(), UNET).items()}


def test_the_file_gives_the_trained_weights_bit_for_bit(tiny_base: Path, trained: Trained) -> None:
    """Two ways: W + delta in dense arithmetic, and the weights as training left them."""
    path, weights = trained
    adapter = shira.load(path)
    unet = open_base(tiny_base).unet
    names = original_names(unet)
    changed = 0
    for name, value in unet.state_dict().items():
        if names[name] in adapter.weights:
            delta = adapter.weights[names[name]]
            value = value + delta.dense().view(value.shape)
            changed += 1
        assert torch.equal(value, weights[name]), name
    assert changed == len(adapter.weights) > 50


def test_apply_gives_the_trained_weights_too(tiny_base: Path, trained: Trained) -> None:
    path, weights = trained
    unet = open_base(tiny_base).unet
    names = original_names(unet)
    target = {names[name]: value for name, value in unet.state_dict().items()}
    with shira.apply(target, [(shira.load(path), 1.0)]):
        assert all(torch.equal(target[names[name]], value) for name, value in weights.items())


def test_verify_knows_the_folder_that_it_was_trained_on(
    tiny_base: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shira_main(["verify", str(trained[0]), "--base", str(tiny_base)]) == 0
    assert "the base is the model it was trained on" in capsys.readouterr().out


def test_the_header_tells_the_story(tiny_base: Path, trained: Trained) -> None:
    header = shira.load(trained[0]).header
    assert (header.architecture, header.base) == ("sd15-compact", "tiny")
    assert header.base_sha256 == open_base(tiny_base).sha256
    assert (header.mask, header.density, header.seed) == ("wm", 0.02, 0)
    assert header.prediction_type == "epsilon"
    assert header.triggers == ("box style",)
    assert header.training["steps"] == STEPS
    assert header.training["pictures"] == 6
    assert "dora" not in header.training


def test_other_programs_find_their_keys(trained: Trained) -> None:
    with safe_open(trained[0], framework="pt") as file:
        found = file.metadata()
    assert found["modelspec.title"] == "style"
    assert found["modelspec.trigger_phrase"] == "box style"
    assert found["modelspec.resolution"] == "64x64"
    assert found["ss_num_train_images"] == "6"
    assert found["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
    assert len(found["modelspec.thumbnail"]) < 100_000


def test_the_run_folder_tells_the_run(trained: Trained) -> None:
    folder = trained[0].with_suffix(".run")
    told = events(folder)
    kinds = [event["event"] for event in told]
    assert kinds[0] == "start"
    assert kinds[-1] == "done"
    steps = [event for event in told if event["event"] == "step"]
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    assert {"loss", "lr", "eta", "time", "step"} <= steps[0].keys()
    with Image.open(folder / "samples" / f"step-{STEPS:06}.png") as grid:
        assert grid.width >= 128
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.toml",
        "events.jsonl",
        "samples",
    ]
    assert load(folder / "config.toml", {}).steps == STEPS


def test_loss_falls(settings: dict[str, object], tmp_path: Path) -> None:
    more = {"density": 0.5, "steps": 24, "min_snr_gamma": 0.0, "sample_count": 0, "flip": True}
    train(load(None, {**settings, **more}))
    losses = [e["loss"] for e in events(tmp_path / "style.run") if e["event"] == "step"]
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])  # type: ignore[arg-type, type-var]


def test_samples_come_when_they_are_due(settings: dict[str, object], tmp_path: Path) -> None:
    """Two prompts of which one has the trigger, three pictures' noise each its own."""
    more = {"steps": 3, "sample_every": 2, "sample_count": 2, "sample_prompts": ["a cat", "a dog"]}
    train(load(None, {**settings, **more}))
    samples = [e["path"] for e in events(tmp_path / "style.run") if e["event"] == "sample"]
    assert [Path(str(path)).name for path in samples] == ["step-000002.png", "step-000003.png"]
    sizes = {Image.open(str(path)).size for path in samples}
    assert sizes == {(8 + 2 * 136, 22 + 2 * 158)}


KINDS: tuple[dict[str, object], ...] = (
    {"mask": "struct"},
    {"mask": "struct", "axis": "both"},
    {"mask": "rand", "rank": 1},
    {"mask": "grad", "calibration": 2},
    {"mask": "snip", "calibration": 1, "layers": "attention"},
    {"mask": "moved", "calibration": 3, "block_density": ["mid=0"]},
    {"dora": True},
    {"accumulate": 2, "gradient_checkpointing": True, "schedule": "constant"},
    {"prediction": "v_prediction", "dtype": "bfloat16", "precision": "bf16"},
)


@pytest.mark.parametrize("more", KINDS, ids=lambda more: "-".join(map(str, more.values())))
def test_every_kind_of_run(settings: dict[str, object], more: dict[str, object]) -> None:
    path = train(load(None, {**settings, **more, "steps": 2, "sample_count": 0}))
    assert path is not None
    adapter = shira.load(path)
    assert adapter.entries > 0
    assert adapter.header.mask == more.get("mask", "wm")
    assert adapter.header.training.get("dora", False) == more.get("dora", False)
    assert adapter.header.training.get("axis") == more.get("axis")
    assert any(adapter.weights[name].values.any() for name in adapter.weights)
    assert all(torch.isfinite(adapter.weights[name].values).all() for name in adapter.weights)

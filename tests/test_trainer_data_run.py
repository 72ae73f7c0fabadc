"""Whole runs on every kind of data: they resume exactly, with a cache that is used again."""

import signal
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from picture_files import noise, picture
from trainer_runs import events

from trainer_ui.engine.config import load
from trainer_ui.engine.errors import ConfigInvalid
from trainer_ui.engine.loop import train


@pytest.fixture
def everything(settings: dict[str, object], tmp_path: Path) -> dict[str, object]:
    """Settings with all of the data's features, and a damaged picture."""
    folder = tmp_path / "set"
    for number, size in enumerate(((64, 64), (256, 64), (70, 260))):
        path = noise(folder / f"{number + 1}_thing" / f"{number}.png", size, number)
        path.with_suffix(".caption").write_text(f"{number}, red, on a mat")
    picture(folder / "2_thing" / "1.mask.png", color="grey")
    damaged = noise(folder / "1_thing" / "bad.png")
    damaged.write_bytes(damaged.read_bytes()[:900])
    picture(tmp_path / "class" / "a.png", (64, 64), "blue")
    return {
        **settings,
        "images": folder,
        "class_images": tmp_path / "class",
        "class_prompt": "a box",
        "class_weight": 0.5,
        "resolution": 128,
        "shuffle_captions": True,
        "keep_tokens": 1,
        "tag_dropout": 0.2,
        "random_crops": 2,
        "flip": True,
        "masked_loss": True,
        "cache": tmp_path / "cache",
        "steps": 6,
        "sample_count": 0,
    }


def test_a_stopped_run_on_everything_resumes_to_the_same_bytes(
    everything: dict[str, object], tmp_path: Path
) -> None:
    def stop(step: int, unet: torch.nn.Module) -> None:
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    whole = train(load(None, {**everything, "out": tmp_path / "whole.shira", "cache": None}))
    assert whole
    assert train(load(None, everything), stop) is None
    resumed = train(load(None, {**everything, "resume": True}))
    assert resumed
    first, second = whole.read_bytes(), resumed.read_bytes()
    assert first.replace(b"whole", b"style") == second
    told = [e["message"] for e in events(tmp_path / "whole.run") if e["event"] == "warning"]
    assert any("1 pictures are skipped: 1_thing/bad.png: damaged" in str(line) for line in told)


def test_changed_data_is_not_resumed(everything: dict[str, object], tmp_path: Path) -> None:
    def stop(step: int, unet: torch.nn.Module) -> None:
        signal.raise_signal(signal.SIGINT)

    assert train(load(None, everything), stop) is None
    picture(tmp_path / "class" / "a.png", color="red")
    with pytest.raises(ConfigInvalid, match="contents of the pictures have changed"):
        train(load(None, {**everything, "resume": True}))
    with pytest.raises(ConfigInvalid, match=r"class_weight was 0\.5 and is now 1"):
        train(load(None, {**everything, "resume": True, "class_weight": 1.0}))

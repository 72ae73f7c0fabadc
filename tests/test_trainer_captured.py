"""Steps that are recorded and replayed train what ordinary steps do, bit for bit.

The recorder is a tape on the CPU, see `tapes`; tests/test_trainer_cuda.py does it on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from PIL import Image
from tapes import Tapes
from test_trainer_resume import signalling
from trainer_runs import STEPS, events

from trainer_ui.engine import checkpoint, graphs
from trainer_ui.engine.config import load
from trainer_ui.engine.loop import train

Settings = dict[str, object]
Record = Callable[[Tapes], Tapes]
WRITING = 1  # the weights are written by a recording of its own


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Record:
    """Have the CPU's steps recorded by tapes."""

    def use(tapes: Tapes) -> Tapes:
        monkeypatch.setitem(graphs.RECORDERS, "cpu", lambda device: tapes)
        return tapes

    return use


@pytest.fixture
def shapes(pictures: Path, tmp_path: Path) -> Path:
    """Three square pictures and three wide ones."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    for number in range(6):
        with Image.open(pictures / f"{number}.png") as picture:
            size = (256, 64) if number % 2 else (128, 128)
            picture.resize(size).save(folder / f"{number}.png")
    return folder


def warnings(out: object) -> list[str]:
    told = events(Path(str(out)).with_suffix(".run"))
    return [str(each["message"]) for each in told if each["event"] == "warning"]


def run(settings: Settings, **more: Any) -> bytes:
    """Train and return the adapter's bytes."""
    path = train(load(None, {**settings, "overwrite": True, **more}))
    assert path is not None
    return path.read_bytes()


def test_a_run_of_one_shape_is_recorded_once(
    settings: Settings, trained: tuple[Path, object], record: Record
) -> None:
    """The pictures at the end need no more steps, so the memory is given back just once."""
    tapes = record(Tapes())
    assert run(settings) == trained[0].read_bytes()
    assert (tapes.ordinary, tapes.recorded, tapes.freed) == (1, 1 + WRITING, 1)
    assert tapes.replayed == 2 * (STEPS - 1)
    assert not warnings(settings["out"])


KINDS: tuple[Settings, ...] = (
    {"mask": "struct", "accumulate": 2, "gradient_checkpointing": True},
    {"mask": "struct", "axis": "columns", "diagonal": False, "clip_norm": 0.0},
    {"ema": 0.9, "validation": 0.34, "validation_every": 2, "sample_every": 3, "save_every": 2},
    {"dora": True, "precision": "fp16", "optimizer": "adafactor", "noise_offset": 0.1},
    {"precision": "bf16", "weights": "bf16", "prediction": "v_prediction", "channels_last": True},
)


@pytest.mark.parametrize("more", KINDS, ids=lambda more: "-".join(map(str, more)))
def test_recorded_steps_train_what_ordinary_ones_do(
    settings: Settings, record: Record, more: Settings
) -> None:
    short: Settings = {"steps": 4, **more}
    plain = run(settings, capture="off", **short)
    tapes = record(Tapes())
    assert run(settings, **short) == plain
    assert tapes.replayed > tapes.ordinary
    assert not warnings(settings["out"])


def test_each_shape_has_its_own_recording(settings: Settings, shapes: Path, record: Record) -> None:
    """A shape's first pass is an ordinary one, for which the others give their memory back."""
    more = {"images": str(shapes), "resolution": 128, "batch_size": 1, "sample_count": 0}
    more |= {"seed": 4, "steps": 7}  # the shapes are a a b b b a b
    plain = run(settings, capture="off", **more)
    tapes = record(Tapes())
    assert run(settings, **more) == plain
    assert tapes.ordinary == 2
    assert tapes.freed == 1
    assert tapes.recorded == (1 + WRITING) + (2 + WRITING)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_recording_that_fails_leaves_the_run_as_it_was(
    settings: Settings, trained: tuple[Path, object], record: Record, number: int
) -> None:
    """Of a pass, of the writing, and of a pass after a sample."""
    tapes = record(Tapes(fails=number))
    whole = run(settings, sample_every=5)
    assert whole == trained[0].read_bytes()
    assert tapes.recorded == number - 1
    told = warnings(settings["out"])
    assert told == ["steps are not captured (operation not permitted): they are slower"]


def test_a_run_goes_on_with_and_without_recording(
    settings: Settings, trained: tuple[Path, object], record: Record
) -> None:
    tapes = record(Tapes())
    assert train(load(None, settings), signalling(4)) is None
    assert tapes.replayed
    again = {**settings, "resume": True}
    assert train(load(None, {**again, "capture": "off"}), signalling(8)) is None
    assert train(load(None, again)) is not None
    assert Path(str(settings["out"])).read_bytes() == trained[0].read_bytes()


def test_what_cannot_be_recorded_is_told(settings: Settings, record: Record) -> None:
    more = {"steps": 2, "sample_count": 0}
    run(settings, capture="on", **more)
    assert warnings(settings["out"]) == ["capture = 'on' has no effect on a device such as cpu"]
    tapes = record(Tapes())
    run(settings, text_lr=1e-3, **more)
    (told,) = warnings(settings["out"])
    assert "text encoders are trained" in told
    run(settings, capture="off", **more)
    assert not warnings(settings["out"])
    assert not tapes.recorded


def test_a_checkpoint_of_a_gpu_goes_on_with_the_cpu_s_own_optimizer(
    settings: Settings, trained: tuple[Path, object]
) -> None:
    """A GPU's AdamW is one kernel, which adds up otherwise than the CPU's."""
    folder = Path(str(settings["out"])).with_suffix(".run")
    assert train(load(None, settings), signalling(4)) is None
    progress, parts = checkpoint.load(folder)
    for group in parts["optimizer"]["param_groups"]:
        group["fused"] = True
    checkpoint.save(folder, progress, parts)
    assert run(settings, resume=True, overwrite=False) == trained[0].read_bytes()

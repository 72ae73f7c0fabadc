"""Training on a GPU: steps that CUDA graphs replay train what ordinary ones do.

Sums on a GPU differ in their last bits from run to run, so losses and adapters are compared within
a tolerance, and the tolerance with what another seed gives.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("pydantic")
from PIL import Image
from tiny_xl import write_folder
from trainer_runs import ROOT, events

import shira_core as shira
from trainer_ui.engine import graphs
from trainer_ui.engine.config import load
from trainer_ui.engine.loop import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

DEVICE = "cuda"
STEPS = 12
Settings = dict[str, Any]
SETTINGS: Settings = {
    "device": DEVICE,
    "steps": STEPS,
    "resolution": 128,
    "batch_size": 2,
    "lr": 1e-3,
    "density": 0.1,
    "trigger": "box style",
    "dtype": "float32",
    "checkpoint_every": 0,
    "sample_every": 5,
    "sample_count": 1,
    "sample_steps": 2,
    "overwrite": True,
}
# relative: of the losses, and of the adapter's values as a whole
EXACT, NARROW = (1e-3, 0.05), (2e-2, 0.3)


class Counted(graphs.Graphs):
    """Graphs that count what is recorded and replayed."""

    counts: ClassVar[Counter[str]] = Counter()

    def record(self, work: graphs.Work) -> graphs.Work:
        replay = super().record(work)
        self.counts["recorded"] += 1

        def counted() -> None:
            self.counts["replayed"] += 1
            replay()

        return counted


@dataclass(frozen=True)
class Trained:
    """A run: the losses of its steps and of the pictures held out, its warnings, its adapter."""

    losses: list[float]
    validation: list[float]
    warnings: list[str]
    values: torch.Tensor


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    Counted.counts.clear()
    monkeypatch.setitem(graphs.RECORDERS, DEVICE, Counted)
    return Counted.counts


@pytest.fixture(scope="module")
def two_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five square pictures and five wide ones."""
    folder = tmp_path_factory.mktemp("shapes")
    for number in range(10):
        size = (256, 64) if number % 2 else (128, 128)
        picture = Image.new("RGB", size, (20 * number, 120, 250 - 20 * number))
        picture.paste((255, 255, 255), (8, 8 + 3 * number, 60, 24 + 3 * number))
        picture.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a box number {number}", encoding="utf-8")
    return folder


@pytest.fixture
def run(two_shapes: Path, tmp_path: Path) -> Callable[..., Trained]:
    """Return what trains the shipped base, or another one."""

    def trained(**more: Any) -> Trained:
        out = tmp_path / "style.shira"
        paths = {"base": ROOT / "assets" / "base", "images": two_shapes, "out": out}
        assert train(load(None, {**SETTINGS, **paths, **more})) == out
        return look(out)

    return trained


def look(out: Path) -> Trained:
    told = events(out.with_suffix(".run"))

    def of(kind: str, name: str) -> list[Any]:
        return [each[name] for each in told if each["event"] == kind]

    weights = shira.load(out).weights
    values = torch.cat([weights[name].values.float() for name in weights])
    return Trained(of("step", "loss"), of("validation", "loss"), of("warning", "message"), values)


def far(one: Trained, other: Trained) -> float:
    return float((one.values - other.values).norm() / other.values.norm())


def check_alike(one: Trained, other: Trained, tolerance: tuple[float, float]) -> None:
    losses, values = tolerance
    assert one.losses == pytest.approx(other.losses, rel=losses)
    assert one.validation == pytest.approx(other.validation, rel=losses)
    assert far(one, other) < values


KINDS: dict[str, tuple[Settings, tuple[float, float]]] = {
    "fp32": ({"precision": "fp32"}, EXACT),
    "bf16": ({"precision": "bf16", "validation": 0.2, "validation_every": 5, "ema": 0.9}, NARROW),
    "fp16": ({"precision": "fp16", "dora": True}, NARROW),
    "checkpointing": (
        {"precision": "fp32", "gradient_checkpointing": True, "accumulate": 2, "mask": "struct"},
        EXACT,
    ),
    "columns": (
        {"mask": "struct", "axis": "columns", "diagonal": False, "channels_last": True},
        NARROW,
    ),
    "narrow": ({"precision": "bf16", "weights": "bf16", "optimizer": "adafactor"}, NARROW),
}


@pytest.mark.parametrize("kind", KINDS)
def test_captured_steps_train_what_ordinary_ones_do(
    run: Callable[..., Trained], counts: Counter[str], kind: str
) -> None:
    """In two shapes, with samples and measurements on the way."""
    more, tolerance = KINDS[kind]
    plain = run(capture="off", **more)
    assert not counts
    captured = run(**more)
    assert not captured.warnings
    assert counts["recorded"] >= 3
    assert counts["replayed"] >= STEPS
    check_alike(captured, plain, tolerance)
    assert far(run(capture="off", seed=1, **more), plain) > 2 * tolerance[1]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_sdxl_is_captured(
    run: Callable[..., Trained], counts: Counter[str], tmp_path: Path, checkpointing: bool
) -> None:
    """In bfloat16, as SDXL is held on a GPU."""
    base = write_folder(tmp_path / "xl", own_words=True)
    more: Settings = {"base": base, "gradient_checkpointing": checkpointing, "precision": "bf16"}
    plain = run(capture="off", **more)
    captured = run(**more)
    assert not captured.warnings
    assert counts["replayed"] >= STEPS
    check_alike(captured, plain, NARROW)


def test_a_captured_run_is_stopped_and_goes_on(
    run: Callable[..., Trained], counts: Counter[str], two_shapes: Path, tmp_path: Path
) -> None:
    def stop(step: int, unet: torch.nn.Module) -> None:
        if step == STEPS // 2:
            signal.raise_signal(signal.SIGINT)

    whole = run(precision="fp32")
    out = tmp_path / "style.shira"
    paths = {"base": ROOT / "assets" / "base", "images": two_shapes, "out": out}
    settings = {**SETTINGS, **paths, "precision": "fp32"}
    assert train(load(None, settings), stop) is None
    assert train(load(None, {**settings, "resume": True})) == out
    assert counts["replayed"] >= 2 * STEPS
    check_alike(look(out), whole, EXACT)


def test_a_trial_run_chooses_what_one_on_the_cpu_does(
    run: Callable[..., Trained], tmp_path: Path
) -> None:
    found = []
    for device in (DEVICE, "cpu"):
        run(device=device, mask="moved", calibration=8, precision="fp32", steps=1)
        kept = (tmp_path / "style.shira").rename(tmp_path / f"{device}.shira")
        found.append(shira.load(kept))
    assert found[0].entries == found[1].entries
    assert shira.compare(*found).overlap > 0.8  # by chance: 0.1


def test_a_failed_capture_leaves_torch_in_order() -> None:
    """A question to the GPU breaks a capture off; memory can be freed and captured afterwards."""
    recorder = graphs.Graphs(torch.device(DEVICE))
    x, y = torch.ones(1000, device=DEVICE), torch.zeros(1000, device=DEVICE)
    with recorder.ready():
        y.copy_((x * 2).cumsum(0))
    with pytest.raises(RuntimeError):
        recorder.record(lambda: (x * 2).sum().item())
    recorder.free()
    assert float((x * 3).sum()) == 3000
    y.zero_()
    replay = recorder.record(lambda: y.copy_((x * 2).cumsum(0)))
    assert float(y.sum()) == 0
    for value in (1, 5):
        x.fill_(value)
        replay()
        assert y.tolist() == [2 * value * n for n in range(1, 1001)]


def test_a_run_whose_capture_fails_goes_on(
    run: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(graphs.Graphs):
        """Asks the GPU a question in every recording."""

        def record(self, work: graphs.Work) -> graphs.Work:
            def asking() -> None:
                work()
                torch.ones(1, device=DEVICE).item()

            return super().record(asking)

    plain = run(precision="fp32", capture="off")
    monkeypatch.setitem(graphs.RECORDERS, DEVICE, Broken)
    broken = run(precision="fp32")
    assert len(broken.warnings) == 1
    assert "steps are not captured (" in broken.warnings[0]
    check_alike(broken, plain, EXACT)

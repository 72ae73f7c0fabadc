"""The estimate of GPU memory: traced tensors against real ones, and what a dry run tells."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.checkpoint import checkpoint

dry_run = pytest.importorskip("trainer_ui.engine.dry_run")
from shira_core.training import finetune  # noqa: E402
from trainer_ui.engine import estimate, tracing, tuning  # noqa: E402
from trainer_ui.engine.cli import train_command  # noqa: E402
from trainer_ui.engine.config import load  # noqa: E402
from trainer_ui.engine.errors import TrainingFailed  # noqa: E402
from trainer_ui.engine.outline import outline  # noqa: E402

BASE = Path(__file__).parent.parent / "assets" / "base"
UNET: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 48,
    "attention_head_dim": 4,
}


def step(**changes: Any) -> estimate.Step:
    unet = estimate.build(UNET, torch.float32)
    usual = estimate.Step(
        unet=UNET,
        layers=dict.fromkeys(tuning.layers(unet, "all")),
        mask="rand",
        density=0.05,
        rank=None,
        batch=2,
        size=(16, 16),
        checkpointing=False,
        held=torch.float32,
    )
    return replace(usual, **changes)


Through = Callable[[nn.Module, torch.Tensor], torch.Tensor]


class Blocks(nn.Module):
    """Frozen layers, from an input with a gradient to a loss."""

    def __init__(self, through: Through) -> None:
        super().__init__()
        self.through = through
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Linear(256, 256), nn.GELU()) for _ in range(6))
        )
        self.requires_grad_(False)

    def forward(self) -> torch.Tensor:
        x = torch.ones(512, 256, device=self.layers[0][0].weight.device, requires_grad=True)
        for layer in self.layers:
            x = self.through(layer, x)
        return x.float().square().mean()


def peak_of(action: Callable[[], Any]) -> int:
    """Return the most bytes that torch's allocator gave out at a time, as its profiler saw it."""
    with torch.profiler.profile(profile_memory=True) as profile:
        action()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return max(e["args"]["Total Allocated"] for e in events if e.get("name") == "[memory]")


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_tensors_that_live_are_counted(checkpointing: bool, autocast: torch.dtype | None) -> None:
    """Against what torch's profiler saw on the CPU."""
    torch_own = partial(checkpoint, use_reentrant=False)
    plain: Through = lambda layer, x: layer(x)  # noqa: E731
    real = Blocks(torch_own if checkpointing else plain)
    traced = Blocks(tracing.checkpoint(autocast) if checkpointing else plain).to("meta")
    weights = sum(each.nbytes for each in real.parameters())

    def on_cpu() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast is not None):
            loss = real()
        loss.backward()

    on_cpu()
    with tracing.Meter(traced.parameters()) as meter:
        with tracing.Rules(autocast):
            loss = traced()
        loss.backward()
    assert meter.peak - weights == pytest.approx(peak_of(on_cpu), rel=0.1)


@pytest.mark.parametrize("mask", ["rand", "struct"])
def test_a_step_is_estimated_as_it_is_on_the_cpu(mask: str) -> None:
    """A whole UNet. The CPU has other kernels than GPUs, so that copies of layouts are left out."""
    from diffusers import UNet2DConditionModel

    wanted = step(
        mask=mask, options={"axis": "columns", "diagonal": False} if mask != "rand" else {}
    )
    unet = UNet2DConditionModel(**UNET).train()
    latents, times, context = (
        torch.randn(2, 4, 16, 16),
        torch.tensor([3, 700]),
        torch.randn(2, 77, 48),
    )
    with finetune(unet, mask, density=0.05, layers=list(wanted.layers), **wanted.options) as run:

        def on_cpu() -> None:
            unet(latents, times, context).sample.square().mean().backward()

        on_cpu()
        peak = peak_of(on_cpu)
        assert estimate.memory(wanted).entries == run.entries
    found = estimate.memory(wanted)
    activations = found.peak - found.weights - found.states - estimate.LIBRARIES
    assert activations == pytest.approx(peak, rel=0.1)


def test_what_saves_memory_is_estimated_to_save_it() -> None:
    columns = {"mask": "struct", "options": {"axis": "columns", "diagonal": False}}
    usual, half = estimate.memory(step()), estimate.memory(step(held=torch.bfloat16))
    assert half.weights * 2 == usual.weights
    assert half.peak < usual.peak
    assert estimate.memory(step(**columns)).peak < usual.peak
    assert estimate.memory(step(checkpointing=True)).peak < usual.peak
    assert estimate.memory(step(batch=4)).peak > usual.peak
    assert estimate.memory(step(dora=True, ema=True)).states > usual.states
    assert estimate.memory(step(optimizer="adamw8bit")).states < usual.states
    assert estimate.memory(step(layers={"mid_block.resnets.0.conv1": None})).entries < usual.entries


def pictures(folder: Path) -> Path:
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (64, 64), (80 * number, 40, 9)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture {number}", encoding="utf-8")
    return folder


def settings(folder: Path, **more: Any) -> Any:
    flags = {"base": BASE, "images": pictures(folder / "pictures"), "out": folder / "x.shira"}
    return load(None, {**flags, "resolution": 64, "device": "cpu", "steps": 6, **more})


def test_a_dry_run_tells_what_training_does_and_writes_nothing(tmp_path: Path) -> None:
    from trainer_ui.engine.loop import train

    config = settings(tmp_path, mask="wm", steps=1, sample_count=0, batch_size=1)
    plan = dry_run.look(config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures"]
    text = str(plan)
    assert f"{plan.memory.entries:,} in {plan.weights} weights" in text
    assert "pictures      3" in text
    assert plan.available is None
    path = train(config)
    assert path is not None
    assert path.stat().st_size == pytest.approx(plan.bytes, rel=0.1)


def test_what_does_not_fit_is_refused_with_what_to_lower(tmp_path: Path) -> None:
    config = settings(tmp_path, sample_count=0)
    plan = dry_run.look(config)
    dry_run.refuse_too_large(config, replace(plan, available=plan.memory.needed))
    with pytest.raises(TrainingFailed, match=r"--gradient-checkpointing, --batch-size 1"):
        dry_run.refuse_too_large(config, replace(plan, available=plan.memory.needed - 1))


@pytest.mark.parametrize("dry", [True, False])
def test_the_command_refuses_what_does_not_fit(
    dry: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU that tells how much is free: no more and no less than what the run needs."""
    needed = dry_run.look(settings(tmp_path, sample_count=0)).memory.needed
    flags = ["--base", BASE, "--images", tmp_path / "pictures", "--out", tmp_path / "x.shira"]
    flags += ["--device", "cpu", "--resolution", 64, "--steps", 1, "--sample-count", 0]
    command = [*map(str, flags), *(["--dry-run"] if dry else [])]
    monkeypatch.setattr(dry_run, "available", lambda config: needed - 1)
    assert train_command(command) == 1
    line = capsys.readouterr().err
    assert line.startswith("shira train: this does not fit:")
    assert "--gradient-checkpointing" in line
    assert line.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures"]
    monkeypatch.setattr(dry_run, "available", lambda config: needed)
    assert train_command(command) == 0
    assert (tmp_path / "x.shira").exists() != dry


def test_own_densities_of_blocks_count(tmp_path: Path) -> None:
    config = settings(tmp_path, block_density=("mid=0.5", "out*=0"))
    wanted = dry_run.step_of(config, outline(BASE), (64, 64))
    assert {own for name, own in wanted.layers.items() if name.startswith("mid")} == {0.5}
    assert {own for name, own in wanted.layers.items() if name.startswith("up_")} == {0.0}


def test_the_command_shows_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--base", BASE, "--images", pictures(tmp_path / "pictures"), "--device", "cpu"]
    flags += ["--out", tmp_path / "x.shira", "--preset", "fast-draft", "--resolution", 64]
    assert train_command([*map(str, flags), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "GPU memory" in shown
    assert "steps         200, " in shown
    assert not list(tmp_path.glob("x.*"))

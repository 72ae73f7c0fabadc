"""Fixtures of several test files: a random base like SD1.5, pictures, a trained adapter."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from full_size import FullSize
    from hub_server import Hub


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with SD1.5's topology and random narrow weights (64 px)."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("base") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 32, 64, 64),
            cross_attention_dim=48,
            attention_head_dim=8,
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=(32, 32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=64,
        )
        text = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=49408,
                hidden_size=48,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=12,
                projection_dim=48,
            )
        )
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    for name, part in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        part.save_pretrained(folder / name)
    scheduler.save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six 64 px pictures, each with a caption."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(6):
        picture = image.new("RGB", (64, 64), (40 * number, 120, 250 - 40 * number))
        picture.paste((255, 255, 255), (8, 8 + 4 * number, 40, 24 + 4 * number))
        picture.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a box number {number}", encoding="utf-8")
    return folder


@pytest.fixture
def settings(tiny_base: Path, pictures: Path, tmp_path: Path) -> dict[str, object]:
    """Settings of a short training run, as JSON values; its output is `style.shira`."""
    from trainer_runs import SETTINGS

    paths = {"base": tiny_base, "images": pictures, "out": tmp_path / "style.shira"}
    return {**SETTINGS, **{name: str(path) for name, path in paths.items()}}


@pytest.fixture(scope="session")
def trained(
    tiny_base: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, torch.Tensor]]:
    """The adapter of an uninterrupted run, and the UNet's weights after its last step."""
    from trainer_runs import SETTINGS

    from trainer_ui.engine.config import load
    from trainer_ui.engine.loop import train

    out = tmp_path_factory.mktemp("trained") / "style.shira"
    weights: dict[str, torch.Tensor] = {}

    def watch(step: int, unet: torch.nn.Module) -> None:
        weights.update({name: value.clone() for name, value in unet.state_dict().items()})

    paths = {"base": tiny_base, "images": pictures, "out": out}
    assert train(load(None, {**SETTINGS, **paths}), watch) == out
    return out, weights


@pytest.fixture(scope="session")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FullSize]:
    """The reference base in SD1.5's size for tests in real hosts (4.3 GB while they run)."""
    from full_size import write_full_size

    folder = tmp_path_factory.mktemp("full")
    try:
        yield write_full_size(folder)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _hub_may_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training in this process switches hubs off for all that follows; each test starts anew."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A model hub on this computer; waiting between tries takes no time."""
    from hub_server import serving

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with serving() as found:
        yield found

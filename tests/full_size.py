"""The reference base in SD1.5's size for tests in real hosts, and the pictures to compare with.

A host draws with the base in full size, diffusers with the compact one as it is shipped: the
pictures must be the same.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from adapters import random_adapter

import shira_core as shira
from shira_core import keymaps
from shira_core.container import read_header

MEAN, MOST = 0.1, 2  # grey levels by which two pictures of the same may differ
IN_THE_MIDDLE = re.compile(r"\.middle_block\.|\.(layers|resblocks)\.1\.")
WIDEST = 192  # of the compact base's layers, the rank of any widened change
VISIBLE = 2  # what an adapter must change at least, on average


@dataclass(frozen=True)
class FullSize:
    """Checkpoints as large as SD1.5, without and with an adapter; the adapter for either size."""

    plain: Path
    styled: Path
    wide: Path
    compact: Path


def write_full_size(folder: Path) -> FullSize:
    """Write the checkpoints (2.1 GB each) and the adapters with the public commands."""
    files = FullSize(
        plain=folder / "plain.safetensors",
        styled=folder / "styled.safetensors",
        wide=folder / "wide.shira",
        compact=folder / "compact.shira",
    )
    random_style().save(files.compact)
    _shira("reference", files.plain)
    _shira("reference", files.wide, "--adapter", files.compact)
    _shira("bake", files.plain, files.styled, files.wide)
    return files


def write_lora(adapter: Path, lora: Path) -> None:
    """Write an adapter of the widened base as a LoRA: copies of channels add no rank."""
    _shira("convert", adapter, "-o", lora, "--to", "lora", "--rank", WIDEST, "--partial")


def write_for(checkpoint: Path, folder: Path) -> FullSize:
    """Write a random adapter for another checkpoint, and that with it baked in.

    It changes matrices in the middle of the denoiser and in one layer of each text encoder.
    """
    files = FullSize(
        plain=folder / "plain.safetensors",
        styled=folder / "styled.safetensors",
        wide=folder / "wide.shira",
        compact=folder / "wide.shira",
    )
    files.plain.symlink_to(checkpoint.absolute())
    shapes = {name: each.shape for name, each in read_header(checkpoint).tensors.items()}
    chosen = (name for name in shapes if IN_THE_MIDDLE.search(name) and len(shapes[name]) == 2)
    matrices = {name: shapes[name] for name in chosen}
    random_adapter(matrices, 0, density=0.05, scale=0.05).save(files.wide)
    _shira("bake", files.plain, files.styled, files.wide)
    return files


def random_style() -> shira.Adapter:
    """Return an adapter for the compact base that changes its pictures a lot: UNet and CLIP."""
    from trainer_ui.demo import open_base

    pipeline = open_base()
    modules = {"unet": pipeline.unet, "te1": pipeline.text_encoder}
    shapes = {
        source.name: tuple(weights[name].shape)
        for part, module in modules.items()
        for weights in [module.state_dict()]
        for name, source in keymaps.sources("sd15-compact", part, weights).items()
        if weights[name].ndim > 1 and "embedding" not in name
    }
    return random_adapter(shapes, 0, density=0.05, scale=0.05, architecture="sd15-compact")


def _shira(*arguments: object) -> None:
    command = [sys.executable, "-m", "shira_core.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"shira {arguments[0]}: {done.stderr}"


@dataclass(frozen=True)
class Scene:
    """What a host and diffusers both draw.

    With four steps the timesteps are 999, 666, 333 and 0. Not every number of steps gives whole
    ones, and some hosts round those that are not.
    """

    prompt: str = "cat, noto style"
    negative: str = ""
    seed: int = 7
    steps: int = 4
    guidance: float = 3.0
    size: int = 128


SCENE = Scene()


def compact_picture(extra: float, style: Path | None = None, scene: Scene = SCENE) -> np.ndarray:
    """Draw with the compact base in diffusers; return uint8 (size, size, 3).

    extra: ComfyUI begins with noise of variance sigma^2 + 1, the WebUIs with sigma^2.
    style: an adapter to apply.
    """
    from diffusers import EulerDiscreteScheduler

    from shira_core.integrations.diffusers import load_shira
    from trainer_ui.demo import open_base

    pipeline = open_base()
    config = pipeline.scheduler.config
    pipeline.scheduler = EulerDiscreteScheduler.from_config(config, timestep_spacing="linspace")
    if style:
        load_shira(pipeline, style)
    sigma = float(pipeline.scheduler.init_noise_sigma)
    drawn = pipeline(
        scene.prompt,
        negative_prompt=scene.negative,
        latents=noise(scene) * (1 + extra / sigma**2) ** 0.5,
        num_inference_steps=scene.steps,
        guidance_scale=scene.guidance,
        output_type="np",
    )
    return (255 * drawn.images[0]).astype(np.uint8)  # cut off, as hosts do; diffusers rounds


def noise(scene: Scene) -> torch.Tensor:
    """Return the noise that a host makes of the seed: float32 (1, 4, size / 8, size / 8)."""
    generator = torch.Generator().manual_seed(scene.seed)
    return torch.randn(1, 4, scene.size // 8, scene.size // 8, generator=generator)


def difference(a: np.ndarray, b: np.ndarray) -> Mapping[str, float]:
    """Return by how many grey levels two pictures differ: on average, and at most."""
    apart = np.abs(a.astype(int) - b.astype(int))
    return {"mean": float(apart.mean()), "most": float(apart.max())}


def check_same(drawn: np.ndarray, wanted: np.ndarray) -> None:
    """Fail unless two pictures differ by rounding only."""
    assert drawn.shape == wanted.shape
    apart = difference(drawn, wanted)
    assert apart["mean"] <= MEAN, apart
    assert apart["most"] <= MOST, apart

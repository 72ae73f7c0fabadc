"""Open everything that a run works on: pictures, base, cache; one clear line for what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from . import base as bases
from . import cache as caches
from . import checkpoint, data, device, sample
from .config import Config
from .encoding import Say


@dataclass(frozen=True)
class Opened:
    """What a run works on.

    base: its UNet on the device; without its text encoders, which have done their work.
    signal: (1000,) float32 on the device, alpha-bar of every timestep.
    scene: what the samples show, or None.
    settings: all that the trained weights depend on, as JSON values.
    """

    base: bases.Base
    cache: caches.Cache
    signal: Tensor
    scene: sample.Scene | None
    settings: dict[str, Any]
    pictures: int
    resolution: int
    device: torch.device


def open_run(config: Config, say: Say, warn: Say) -> Opened:
    """Open the pictures and the base of a run; raises our errors for either.

    A run to resume is compared with its checkpoint before anything slow is done.
    """
    place = device.choose(config)
    say(f"opening {config.base}")
    base = _base(config)
    resolution = config.resolution or base.resolution
    dataset = data.scan(config, resolution, data.STEP * base.factor, config.seed)
    report = data.report(dataset)
    say(report.numbers)
    for line in report.problems:
        warn(line)
    settings = {
        **config.fingerprint(),
        "resolution": resolution,
        "contents of the pictures": data.digest(dataset),
        "contents of the base": base.sha256,
    }
    if config.resume:
        checkpoint.check(checkpoint.load(config.run_folder)[0], settings)
    say(f"encoding {len(dataset.examples)} pictures at {resolution} px")
    with _on(place, base.vae, *(each.module for each in base.text_encoders)):
        cache = caches.build(base, config, dataset, warn, say)
        scene = sample.scene(base, config, dataset.prompts, resolution)
    base.unet.requires_grad_(False).to(place)
    return Opened(
        cache=cache,
        scene=scene,
        base=replace(base, text_encoders=()),
        signal=_signal(base).to(place),
        settings=settings,
        pictures=report.pictures,
        resolution=resolution,
        device=place,
    )


@contextmanager
def _on(place: torch.device, *modules: Any) -> Iterator[None]:
    """Have modules on a device that is wanted for others afterwards."""
    for module in modules:
        module.requires_grad_(False).to(place)
    yield
    for module in modules:
        module.to("cpu")


def _base(config: Config) -> bases.Base:
    """Open the base as the settings want it."""
    base = bases.open_base(config.base)
    if config.prediction != "auto":
        base = replace(base, scheduler={**base.scheduler, "prediction_type": config.prediction})
    if config.gradient_checkpointing:
        base.unet.train()
        base.unet.enable_gradient_checkpointing()
    return base


def _signal(base: bases.Base) -> Tensor:
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(dict(base.scheduler)).alphas_cumprod.float()

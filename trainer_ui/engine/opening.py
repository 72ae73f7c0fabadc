"""Open everything that a run works on: pictures, base, cache; one clear line for what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as checkpointed

from . import base as bases
from . import cache as caches
from . import checkpoint, data, device, sample
from .config import Config
from .encoding import Say
from .errors import DataInvalid
from .objective import generator
from .processes import ALONE, Processes


@dataclass(frozen=True)
class Opened:
    """What a run works on.

    base: its UNet on the device; its text encoders too where they are trained, else without them.
    arithmetic: the dtypes. held_out: the pictures that are not trained, for validation, or None.
    signal: (1000,) float32 on the device, alpha-bar of every timestep.
    scene: what the samples show, or None.
    settings: all that the trained weights depend on, as JSON values.
    """

    base: bases.Base
    arithmetic: device.Arithmetic
    cache: caches.Cache
    held_out: caches.Cache | None
    signal: Tensor
    scene: sample.Scene | None
    settings: dict[str, Any]
    pictures: int
    resolution: int
    device: torch.device


def open_run(config: Config, say: Say, warn: Say, processes: Processes = ALONE) -> Opened:
    """Open the pictures and the base of a run; raises our errors for either.

    A run to resume is compared with its checkpoint before anything slow is done.
    """
    place = processes.device or device.choose(config)
    arithmetic = device.arithmetic(config, place, bases.peek(config.base))
    say(f"opening {config.base}")
    base = _base(config, arithmetic.held)
    resolution = config.resolution or base.resolution
    dataset = data.scan(config, resolution, data.STEP * base.factor, config.seed)
    report = data.report(dataset)
    say(report.numbers)
    for line in report.problems:
        warn(line)
    settings = {
        **config.fingerprint(),
        "resolution": resolution,
        "processes": processes.count,
        "contents of the pictures": data.digest(dataset),
        "contents of the base": base.sha256,
    }
    if config.resume:
        checkpoint.check(checkpoint.load(config.run_folder)[0], settings)
    say(f"encoding {len(dataset.examples)} pictures at {resolution} px")
    learned, held = _split(dataset, config)
    with _on(place, base.vae, *(each.module for each in base.text_encoders)):
        cache = caches.build(base, config, learned, warn, say)
        held_out = caches.build(base, _plain(config), held, warn, say) if held.examples else None
        scene = sample.scene(base, config, dataset.prompts, resolution)
    return Opened(
        cache=cache,
        held_out=held_out,
        arithmetic=arithmetic,
        scene=scene,
        base=_placed(base, place, config),
        signal=_signal(base).to(place),
        settings=settings,
        pictures=report.pictures,
        resolution=resolution,
        device=place,
    )


def _split(dataset: data.Dataset, config: Config) -> tuple[data.Dataset, data.Dataset]:
    """Return the pictures to learn and those to hold out, chosen by the seed.

    Raises DataInvalid when a share is wanted and there is nothing left on one of the sides.
    """
    mine = [number for number, each in enumerate(dataset.examples) if not each.is_class]
    count = round(config.validation * len(mine))
    if config.validation and not 0 < count < len(mine):
        raise DataInvalid(
            f"validation = {config.validation} holds out {count} of {len(mine)} pictures: "
            "choose a share that leaves some on both sides"
        )
    order = torch.randperm(len(mine), generator=generator(config.seed, "held out", 0)).tolist()
    held = {mine[place] for place in order[:count]}
    sides: tuple[list[data.Example], list[data.Example]] = ([], [])
    for number, example in enumerate(dataset.examples):
        sides[number in held].append(example)
    learned, kept = (replace(dataset, examples=tuple(side)) for side in sides)
    return learned, kept


def _plain(config: Config) -> Config:
    """Return the settings with which pictures held out are looked at: one by one, as they are."""
    return config.model_copy(
        update={"batch_size": 1, "flip": False, "random_crops": 0, "caption_dropout": 0.0}
    )


def _placed(base: bases.Base, place: torch.device, config: Config) -> bases.Base:
    """Return the base with what is trained on the device."""
    base.unet.requires_grad_(False).to(place)
    if config.channels_last:
        base.unet.to(memory_format=torch.channels_last)
    if not config.text_lr:
        return replace(base, text_encoders=())
    for each in base.text_encoders:
        each.module.to(place)
    return base


@contextmanager
def _on(place: torch.device, *modules: Any) -> Iterator[None]:
    """Have modules on a device that is wanted for others afterwards."""
    for module in modules:
        module.requires_grad_(False).to(place)
    yield
    for module in modules:
        module.to("cpu")


def _base(config: Config, dtype: torch.dtype) -> bases.Base:
    """Open the base as the settings want it."""
    base = bases.open_base(config.base, dtype)
    if config.prediction != "auto":
        base = replace(base, scheduler={**base.scheduler, "prediction_type": config.prediction})
    if config.gradient_checkpointing:
        base.unet.train()
        base.unet.enable_gradient_checkpointing(_checkpoint)
        for each in base.text_encoders if config.text_lr else ():
            each.module.train()
            each.module.gradient_checkpointing_enable()
    return base


def _checkpoint(module: Any, *arguments: Any) -> Any:
    """Compute a part again in the backward pass.

    Without the state of the random numbers, which a captured step cannot read: nothing is drawn.
    """
    return checkpointed(module, *arguments, use_reentrant=False, preserve_rng_state=False)


def _signal(base: bases.Base) -> Tensor:
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(dict(base.scheduler)).alphas_cumprod.float()

"""The finished adapter: original checkpoint names, a header that tells its story, one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from shira_core import keymaps
from shira_core.adapter import Adapter, Header
from shira_core.names import UNET
from shira_core.translate import to_checkpoint

from . import sample
from .base import Base
from .config import Config

SUMMARY = (
    *("steps", "lr", "schedule", "warmup", "batch_size", "accumulate"),
    *("min_snr_gamma", "noise_offset", "layers", "shard", "alpha"),
)


@dataclass(frozen=True)
class Facts:
    """What the header says besides the settings."""

    base: Base
    pictures: int
    resolution: int
    prediction: str
    preview: Image.Image | None


def write(config: Config, run: Any, facts: Facts) -> Path:
    """Write the adapter of a run atomically, under original names, and return its path."""
    sources = keymaps.unet(facts.base.unet.state_dict(), UNET)
    adapter = to_checkpoint(Adapter(header(config, facts), run.adapter().weights), sources)
    return adapter.save(config.out, overwrite=config.overwrite, dtype=getattr(torch, config.dtype))


def header(config: Config, facts: Facts) -> Header:
    """Return the header. It holds no date or duration, so equal runs give equal bytes."""
    return Header(
        architecture=facts.base.architecture,
        base=facts.base.name,
        base_sha256=facts.base.sha256,
        prediction_type=facts.prediction,
        mask=config.mask,
        density=config.density,
        seed=config.seed,
        triggers=(config.trigger,) if config.trigger else (),
        title=config.title or config.out.stem,
        author=config.author,
        description=config.description,
        license=config.license,
        training=_training(config, facts),
        extra=_extra(config, facts),
    )


def _training(config: Config, facts: Facts) -> dict[str, Any]:
    summary: dict[str, Any] = {name: getattr(config, name) for name in SUMMARY}
    summary |= {"pictures": facts.pictures, "resolution": facts.resolution}
    return summary | ({"rank": config.rank} if config.rank else {})


def _extra(config: Config, facts: Facts) -> dict[str, str]:
    """Return the keys that other programs read (modelspec 1.0.1, sd-scripts)."""
    keys = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/shira",
        "modelspec.title": config.title or config.out.stem,
        "modelspec.author": config.author,
        "modelspec.description": config.description,
        "modelspec.license": config.license,
        "modelspec.trigger_phrase": config.trigger,
        "modelspec.prediction_type": facts.prediction.removesuffix("_prediction"),
        "modelspec.resolution": f"{facts.resolution}x{facts.resolution}",
        "modelspec.thumbnail": sample.thumbnail(facts.preview) if facts.preview else "",
        "ss_base_model_version": "sd_v1",
        "ss_sd_model_name": facts.base.name,
        "ss_steps": str(config.steps),
        "ss_num_train_images": str(facts.pictures),
    }
    return {key: value for key, value in keys.items() if value}

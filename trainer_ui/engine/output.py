"""The finished adapter: original checkpoint names, a header that tells its story, one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from shira_core import keymaps
from shira_core.names import UNET
from shira_core.training import Run
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
    preview: Image.Image | None


def write(config: Config, run: Run, facts: Facts) -> Path:
    """Write the adapter of a run atomically, under original names, and return its path.

    The header holds no date or duration, so equal runs give equal bytes.
    """
    trained = run.adapter(
        architecture=facts.base.architecture,
        base=facts.base.name,
        base_sha256=facts.base.sha256,
        prediction_type=facts.base.prediction_type,
        trigger=config.trigger,
        title=config.title or config.out.stem,
        author=config.author,
        description=config.description,
        license=config.license,
        training=_training(config, facts),
        extra=_extra(config, facts),
    )
    sources = keymaps.unet(facts.base.unet.state_dict(), UNET)
    return to_checkpoint(trained, sources).save(config.out, overwrite=config.overwrite)


def _training(config: Config, facts: Facts) -> dict[str, Any]:
    summary: dict[str, Any] = {name: getattr(config, name) for name in SUMMARY}
    summary |= {"pictures": facts.pictures, "resolution": facts.resolution}
    summary |= {"rank": config.rank} if config.rank else {}
    return summary | ({"axis": config.axis} if config.axis else {})


def _extra(config: Config, facts: Facts) -> dict[str, str]:
    """Return what other programs read and the rest of the header does not hold."""
    keys = {
        "modelspec.resolution": f"{facts.resolution}x{facts.resolution}",
        "modelspec.thumbnail": sample.thumbnail(facts.preview) if facts.preview else "",
        "ss_resolution": f"({facts.resolution}, {facts.resolution})",
        "ss_steps": str(config.steps),
        "ss_learning_rate": str(config.lr),
        "ss_num_train_images": str(facts.pictures),
    }
    return {key: value for key, value in keys.items() if value}

"""The finished adapter: original checkpoint names, a header that tells its story, one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from . import sample
from .base import Base
from .config import Config
from .tuning import Tuning

SUMMARY = (
    *("steps", "lr", "schedule", "warmup", "batch_size", "accumulate"),
    *("optimizer", "min_snr_gamma", "noise_offset", "layers", "shard", "alpha"),
)
# told where they are used
SPECIAL = ("rank", "axis", "text_lr", "debiased", "ema", "block_density")


@dataclass(frozen=True)
class Facts:
    """What the header says besides the settings."""

    base: Base
    pictures: int
    resolution: int
    preview: Image.Image | None


def write(config: Config, tuning: Tuning, facts: Facts, path: Path) -> Path:
    """Write the adapter as it is now atomically, under original names, and return its path.

    The header holds no date or duration, so equal runs give equal bytes.
    """
    trained = tuning.adapter(
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
    return trained.save(path, overwrite=True)


def _training(config: Config, facts: Facts) -> dict[str, Any]:
    summary: dict[str, Any] = {name: getattr(config, name) for name in SUMMARY}
    summary |= {"pictures": facts.pictures, "resolution": facts.resolution}
    values = {name: getattr(config, name) for name in SPECIAL}
    return summary | {name: value for name, value in values.items() if value}


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

"""What a base is like, from configs and headers alone: no weight is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import base as bases

FACTOR = 8  # pixels per latent of SD1.5's and SDXL's VAE


@dataclass(frozen=True)
class Outline:
    """A base without weights.

    architecture: "sd15" or "sdxl". unet: arguments of diffusers' UNet2DConditionModel.
    factor: pixels per latent, along one side.
    """

    architecture: str
    unet: Mapping[str, Any]
    factor: int

    @property
    def resolution(self) -> int:
        """The side in pixels that the base was made for."""
        return int(self.unet["sample_size"]) * self.factor


def outline(path: Path) -> Outline:
    """Return a base's outline; raises BaseInvalid as `base.peek`."""
    from .single_file import Checkpoint, unet_config

    architecture = bases.peek(path)
    if not path.is_dir():
        return Outline(architecture, unet_config(Checkpoint(path)), FACTOR)
    levels = _json(path / "vae" / "config.json").get("block_out_channels", (0, 0, 0, 0))
    return Outline(architecture, _json(path / "unet" / "config.json"), 2 ** (len(levels) - 1))


def _json(path: Path) -> dict[str, Any]:
    """Return a config that `base.peek` has looked at, without the library's own entries."""
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: value for name, value in values.items() if not name.startswith("_")}

"""What a base is like, from configs and headers alone: no weight is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import base as bases

# SD1.5's and SDXL's, as arguments of diffusers' AutoencoderKL
VAE: Mapping[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}


@dataclass(frozen=True)
class Outline:
    """A base without weights.

    architecture: "sd15" or "sdxl". unet, vae: arguments of diffusers' UNet2DConditionModel and
    AutoencoderKL.
    """

    architecture: str
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]

    @property
    def factor(self) -> int:
        """Pixels per latent, along one side."""
        return 2 ** (len(self.vae["block_out_channels"]) - 1)

    @property
    def resolution(self) -> int:
        """The side in pixels that the base was made for."""
        return int(self.unet["sample_size"]) * self.factor


def outline(path: Path) -> Outline:
    """Return a base's outline; raises BaseInvalid as `base.peek`."""
    from .single_file import Checkpoint, unet_config

    architecture = bases.peek(path)
    if not path.is_dir():
        return Outline(architecture, unet_config(Checkpoint(path)), VAE)
    unet, vae = (_json(path / part / "config.json") for part in ("unet", "vae"))
    return Outline(architecture, unet, vae or VAE)


def _json(path: Path) -> dict[str, Any]:
    """Return a config that `base.peek` has looked at, without the library's own entries."""
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: value for name, value in values.items() if not name.startswith("_")}

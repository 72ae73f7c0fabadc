"""Bases that can be trained, what a run of them would be, and pictures of masks."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from shira_core import keymaps, masks, names
from shira_core.conversion.model import weight_files
from shira_core.errors import InvalidValue, ShiraError
from shira_core.mask import Mask, Shape
from shira_core.masks.request import budget, matrix
from shira_core.translate import Source

from .engine import base as opening
from .engine import dry_run, estimate, measured, tuning
from .engine.config import Config
from .engine.errors import BaseInvalid
from .engine.outline import outline
from .engine.single_file import Checkpoint
from .roots import Roots

MASKS: Mapping[str, str] = {
    "wm": "The largest weights. They matter most, so a style is learned with few steps. Adapters "
    "trained so share many entries, and disturb each other more when they are mixed.",
    "rand": "Entries drawn at random. Adapters with other seeds or shards barely share any, so "
    "they mix best.",
    "struct": "Whole columns, evenly spaced, and the diagonal. Takes the least memory to train and "
    "the smallest file.",
    "grad": "The entries that your pictures pull at most, measured before training. Takes a moment "
    "more at the start.",
    "snip": "Weight times gradient: entries that matter to the base and to your pictures. Takes a "
    "moment more at the start.",
    "moved": "The entries that move furthest in a short trial run before training, of all layers "
    "together: each layer gets as many as it needs. For styles, which then disturb objects less; "
    "not for new objects. Takes as long as some 50 steps at the start.",
}
SIDE = 384  # pixels of a picture's longer side, about
NOTHING = torch.empty(0)
INK, PAPER = np.array([23, 66, 135.0]), np.array([246, 248, 252.0])


@dataclass(frozen=True)
class Found:
    """A base. architecture: as people call it. size: bytes of its weights."""

    path: Path
    architecture: str
    size: int


@dataclass(frozen=True)
class Trainable:
    """What would be trained of a UNet: so many entries of all positions of so many weights."""

    weights: int
    positions: int
    entries: int
    file_bytes: int


@dataclass(frozen=True)
class Weight:
    """A trainable weight: its module's name in diffusers, and where a checkpoint has it."""

    module: str
    source: Source
    shape: Shape

    @property
    def shown(self) -> str:
        """Its name in the checkpoint, for a person."""
        return self.source.name.removeprefix(names.UNET).removesuffix(".weight")


def bases(roots: Roots) -> list[Found]:
    """Return the checkpoints and diffusers folders below the roots that can be trained."""
    return [found for folder in roots.folders for found in _bases(folder)]


def base(path: Path) -> Found | None:
    """Return what a file or folder is, None for one that cannot be trained."""
    try:
        architecture = names.label(opening.peek(path))
        files = path.rglob("*.safetensors") if path.is_dir() else [path]
        return Found(path, architecture, sum(file.stat().st_size for file in files))
    except (ShiraError, OSError):
        return None


def weights(base: Path, which: str = "all") -> tuple[Weight, ...]:
    """Return the weights of a base's UNet that can be trained; takes seconds.

    which: "all" or "attention". Raises BaseInvalid.
    """
    unet = estimate.build(outline(base).unet, torch.float32)
    shapes = {name: tuple(weight.shape) for name, weight in unet.state_dict().items()}
    sources = keymaps.sources(keymaps.architecture(shapes), "unet", shapes)
    return tuple(
        Weight(module, sources[name], shapes[name])
        for module in tuning.layers(unet, which)
        if (name := f"{module}.weight") in sources
    )


def trainable(config: Config, weights: Sequence[Weight]) -> Trainable:
    """Return what would be trained of `weights`, at once; raises InvalidValue, ConfigInvalid."""
    tuning.check_unet_blocks(config, [weight.source.name for weight in weights])
    trained = [
        (math.prod(weight.shape), _entries(weight.shape, density, config))
        for weight in weights
        if (density := _own_density(weight, config)) != 0
    ]
    positions, entries = (sum(each) for each in zip(*trained, strict=True)) if trained else (0, 0)
    size = dry_run.file_bytes(config, len(trained), positions, entries)
    return Trainable(len(trained), positions, entries, size)


def memory(config: Config) -> int:
    """Return the bytes that a GPU must have free for square pictures; takes seconds.

    `dry_run.look` looks at the real ones. Raises BaseInvalid, InvalidValue, ConfigInvalid.
    """
    base = outline(config.base)
    side = config.resolution or base.resolution
    return estimate.memory(dry_run.step_of(config, base, (side, side))).needed


def mask_picture(config: Config, weight: Weight) -> Image.Image:
    """Return a picture of a run's mask on one weight: rows are outputs, columns inputs.

    Dark entries are trained. Raises InvalidValue for a mask that pictures decide, and for a weight
    that is not trained.
    """
    if config.mask in measured.MEASURED:
        raise InvalidValue(f"{config.mask} looks at your pictures first: it is known then")
    own = _own_density(weight, config)
    if own == 0:
        raise InvalidValue(f"{weight.shown} is not trained: its block's density is 0")
    density, rank = (config.density, config.rank) if own is None else (own, None)
    built = masks.build(
        config.mask,
        _read(config.base, weight),
        density=density,
        rank=rank,
        seed=config.seed,
        shard=config.shard,
        layer=f"{weight.module}.weight",
        **tuning.struct_options(config),
    )
    return _draw(built)


def _bases(folder: Path) -> Iterator[Found]:
    """Yield the bases in a folder and below; a base's own folders are not looked into."""
    for place, below, files in os.walk(folder, followlinks=False):
        below[:] = sorted(name for name in below if not name.startswith("."))
        here = Path(place)
        if "unet" in below and (found := base(here)):
            below.clear()
            yield found
            continue
        for name in sorted(files):
            if name.lower().endswith(".safetensors") and (found := base(here / name)):
                yield found


def _own_density(weight: Weight, config: Config) -> float | None:
    """Return the density of a weight's block, None where it is the general one."""
    own = tuning.by_block(config.block_density, {weight.module: weight.source})
    return own(weight.module, NOTHING)


def _entries(shape: Shape, own: float | None, config: Config) -> int:
    density, rank = (config.density, config.rank) if own is None else (own, None)
    if config.mask != "struct":
        return budget(shape, density, rank)
    options = tuning.struct_options(config)
    return _struct_entries(shape, density, rank, tuple(sorted(options.items())), config.shard)


@lru_cache(maxsize=4096)
def _struct_entries(
    shape: Shape, density: float | None, rank: int | None, options: tuple[Any, ...], shard: int
) -> int:
    weight = torch.empty(shape, device="meta")
    built = masks.build("struct", weight, density=density, rank=rank, **dict(options), shard=shard)
    return built.count


def _read(base: Path, weight: Weight) -> Tensor:
    """Return the values of one weight in float32."""
    if not base.is_dir():
        return Checkpoint(base).read(weight.source).reshape(weight.shape)
    name = f"{weight.module}.weight"
    for path in weight_files(base / "unet"):
        with safe_open(path, framework="pt") as file:
            if name in file.keys():  # noqa: SIM118 - no mapping
                return file.get_tensor(name).float()
    raise BaseInvalid(f"base {base} has no weight {name}: copy it again")


def _draw(mask: Mask) -> Image.Image:
    """Draw a mask; where several entries share a dot, it is as dark as many of them are trained."""
    outputs, inputs, taps = matrix(mask.shape)
    cells = mask.dense().float().view(1, outputs, inputs * taps)
    largest = max(cells.shape)
    if largest > SIDE:
        height, width = (max(1, side * SIDE // largest) for side in cells.shape[1:])
        cells = torch.nn.functional.adaptive_avg_pool2d(cells, (height, width))
    shade = (cells[0] / cells.max()).sqrt().unsqueeze(-1).numpy()
    pixels = PAPER + (INK - PAPER) * shade
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    larger = max(1, SIDE // max(picture.size))
    return picture.resize(
        (picture.width * larger, picture.height * larger), Image.Resampling.NEAREST
    )

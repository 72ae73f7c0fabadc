"""Bases that can be trained, what a run of them would be, and pictures of masks."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from shira_core import keymaps, masks, names
from shira_core.errors import InvalidValue, ShiraError
from shira_core.mask import Mask, Shape
from shira_core.masks.request import budget, matrix
from shira_core.translate import Source

from .engine import base as opening
from .engine import diffusers_folder, dry_run, estimate, tuning
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
}
MEASURED = ("grad", "snip")
SIDE = 384  # pixels of a picture's longer side, about
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
class Plan(Trainable):
    """What a run would be. memory: bytes that a GPU must have free. seconds: None: not measured."""

    memory: int
    steps: int
    seconds: float | None


@dataclass(frozen=True)
class _Weight:
    """A trainable weight: its module's name in diffusers, and where a checkpoint has it."""

    module: str
    source: Source
    shape: Shape

    @property
    def shown(self) -> str:
        return self.source.name.removeprefix(names.UNET).removesuffix(".weight")


def bases(roots: Roots) -> list[Found]:
    """Return the checkpoints and diffusers folders below the roots that can be trained."""
    return [found for folder in roots.folders for found in _bases(folder)]


def trainable(config: Config) -> Trainable:
    """Return what would be trained, at once after the first time for a base.

    Raises BaseInvalid, InvalidValue.
    """
    weights = _weights(*_key(config.base), config.layers)
    own = tuning.by_block(config.block_density, {w.module: w.source for w in weights})
    densities = [own(weight.module, torch.empty(0)) for weight in weights]
    trained = [
        (math.prod(weight.shape), _entries(weight.shape, density, config))
        for weight, density in zip(weights, densities, strict=True)
        if density != 0
    ]
    positions, entries = (sum(each) for each in zip(*trained, strict=True)) if trained else (0, 0)
    size = dry_run.file_bytes(config, len(trained), positions, entries)
    return Trainable(len(trained), positions, entries, size)


def plan(config: Config, seconds_per_step: float | None = None) -> Plan:
    """Return what a run would be, without a look at its pictures; takes some seconds.

    seconds_per_step: as measured on this machine. Raises BaseInvalid, InvalidValue.
    """
    base = outline(config.base)
    side = config.resolution or base.resolution
    memory = estimate.memory(dry_run.step_of(config, base, (side, side)))
    seconds = None if seconds_per_step is None else seconds_per_step * config.steps
    return Plan(
        **asdict(trainable(config)), memory=memory.needed, steps=config.steps, seconds=seconds
    )


def layers(base: Path) -> list[str]:
    """Return the names of the weights of a base's UNet that can be trained."""
    return [weight.shown for weight in _weights(*_key(base), "all")]


def mask_picture(
    base: Path, layer: str, mask: str, density: float, seed: int = 0, **options: Any
) -> Image.Image:
    """Return a picture of a mask on one weight: rows are outputs, columns inputs; dark: trained.

    layer: one of `layers`. options: of the mask, as for `shira_core.masks.build`.
    Raises InvalidValue for a mask that pictures decide, or a layer that is not there.
    """
    if mask in MEASURED:
        raise InvalidValue(f"{mask} looks at your pictures first: its entries are known then")
    weight = next((w for w in _weights(*_key(base), "all") if w.shown == layer), None)
    if weight is None:
        raise InvalidValue(f"{layer!r:.120} is no weight of this base: choose one of the list")
    values = _read(base, weight)
    built = masks.build(
        mask, values, density=density, seed=seed, layer=f"{weight.module}.weight", **options
    )
    return _draw(built)


def _bases(folder: Path) -> Iterator[Found]:
    """Yield the bases in a folder and below; a base's own folders are not looked into."""
    for place, below, files in os.walk(folder, followlinks=False):
        below[:] = sorted(name for name in below if not name.startswith("."))
        here = Path(place)
        if "unet" in below and (found := _base(here)):
            below.clear()
            yield found
            continue
        for name in sorted(files):
            if name.lower().endswith(".safetensors") and (found := _base(here / name)):
                yield found


def _base(path: Path) -> Found | None:
    try:
        architecture = names.label(opening.peek(path))
    except ShiraError:
        return None
    files = path.rglob("*.safetensors") if path.is_dir() else [path]
    return Found(path, architecture, sum(file.stat().st_size for file in files))


def _key(base: Path) -> tuple[Path, int]:
    """Return what a base is remembered by: another file of this name has another time."""
    try:
        return base, base.stat().st_mtime_ns
    except OSError:
        raise BaseInvalid(f"base: {base} does not exist: choose another") from None


@lru_cache(maxsize=16)
def _weights(base: Path, stamp: int, which: str) -> tuple[_Weight, ...]:
    """Return the trainable weights. which: "all" or "attention"."""
    unet = estimate.build(outline(base).unet, torch.float32)
    shapes = {name: tuple(weight.shape) for name, weight in unet.state_dict().items()}
    sources = keymaps.sources(keymaps.architecture(shapes), "unet", shapes)
    return tuple(
        _Weight(module, sources[name], shapes[name])
        for module in tuning.layers(unet, which)
        if (name := f"{module}.weight") in sources
    )


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


def _read(base: Path, weight: _Weight) -> Tensor:
    """Return the values of one weight in float32."""
    if not base.is_dir():
        return Checkpoint(base).read(weight.source).reshape(weight.shape)
    name = f"{weight.module}.weight"
    for path in diffusers_folder.weight_files(base / "unet"):
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

"""Open a compact base, a diffusers folder, under the names of an SD1.5 checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from shira_core import keymaps
from shira_core.container import read_header
from shira_core.entries import within
from shira_core.mask import Shape
from shira_core.names import UNET
from shira_core.translate import Source

from ..engine.errors import BaseInvalid
from . import skeleton
from .skeleton import FULL, TEXT, VAE, Widths
from .widening import Rule, rule, widen

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "base"
CLIP_ROWS = Path("tokenizer", "clip_rows.npy")
FILES: Mapping[str, tuple[Callable[[Iterable[str], str], dict[str, Source]], str]] = {
    "unet/diffusion_pytorch_model.safetensors": (keymaps.unet, UNET),
    "vae/diffusion_pytorch_model.safetensors": (keymaps.vae, VAE),
    "text_encoder/model.safetensors": (keymaps.clip, TEXT),
}
# What shapes do not show and every host takes for granted.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "unet/config.json": {"attention_head_dim": 8, "norm_num_groups": 32},
    "vae/config.json": {"norm_num_groups": 32, "scaling_factor": 0.18215},
    "text_encoder/config.json": {"num_attention_heads": 12, "hidden_act": "quick_gelu"},
    "scheduler/scheduler_config.json": {
        "prediction_type": "epsilon",
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    },
}
GROUPS, HEADS = 32, 12
SHORTCUT = ".nin_shortcut."
GIVE = "give the folder of a compact base, such as assets/base"
FULL_SHAPES = skeleton.shapes(FULL)


class Place(NamedTuple):
    """Where a weight lies: file, name and shape there."""

    path: Path
    name: str
    shape: Shape


class Compact:
    """A compact base whose weights are read when used.

    shapes: of all weights that SD1.5 has, at the base's widths. Raises BaseInvalid for a folder
    that is none or does not become SD1.5, and FileInvalid for damaged files.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder
        self._places = _places(folder)
        _check_settings(folder)
        self.shapes, tokens = _checked_shapes(folder, self._places)
        self._tokens = _token_rows(folder, tokens)
        paths = {place.path for place in self._places.values()}
        self._files = {path: safe_open(path, framework="pt") for path in paths}

    def rule(self, name: str) -> Rule:
        """Return how a weight is widened."""
        return rule(name, self.shapes[name], FULL_SHAPES[name], self._tokens)

    def read(self, name: str) -> Tensor:
        """Return a weight in the dtype that it is stored in, of the shape in `shapes`.

        Of what only the full model has, a shortcut between levels is the identity, and layers of
        the text encoder are zero: both pass on what comes.
        """
        shape = self.shapes[name]
        if name in self._places:
            path, own, _ = self._places[name]
            weight = self._files[path].get_tensor(own).reshape(shape)
            if not within(weight, torch.finfo(torch.float16).max):
                raise BaseInvalid(f"base {path}: {own} is no finite float16: copy it again")
            return weight
        if SHORTCUT in name and len(shape) > 1:
            return torch.eye(shape[0]).view(shape)
        return torch.zeros(shape)

    def widened(self, name: str, dtype: torch.dtype = torch.float16) -> Tensor:
        """Return a weight of the full model."""
        return widen(self.read(name), self.rule(name), dtype)


def _places(folder: Path) -> dict[str, Place]:
    """Return where each weight lies, by original name."""
    if not folder.is_dir():
        raise BaseInvalid(f"base: there is no folder {folder}: {GIVE}")
    places: dict[str, Place] = {}
    for file, (keymap, prefix) in FILES.items():
        path = folder / file
        if not path.is_file():
            raise BaseInvalid(f"base {folder} has no {file}: {GIVE}")
        found = {name: info.shape for name, info in read_header(path).tensors.items()}
        sources = keymap(found, prefix)
        if strange := found.keys() - sources.keys():
            raise BaseInvalid(f"base {path} has {min(strange)}, which SD1.5 lacks: {GIVE}")
        places |= {s.name: Place(path, name, found[name]) for name, s in sources.items()}
    places.pop(skeleton.IDS, None)
    return places


def _check_settings(folder: Path) -> None:
    for file, wanted in SETTINGS.items():
        try:
            config = json.loads((folder / file).read_text(encoding="utf-8"))
            wrong = [key for key, value in wanted.items() if config.get(key, value) != value]
        except (OSError, ValueError, AttributeError) as error:
            raise BaseInvalid(f"base: {folder / file} cannot be read ({error}): {GIVE}") from None
        if wrong:
            raise BaseInvalid(
                f"base {folder}: {file} has {wrong[0]} {config[wrong[0]]} and SD1.5 has "
                f"{wanted[wrong[0]]}: {GIVE}"
            )


def _checked_shapes(folder: Path, places: Mapping[str, Place]) -> tuple[dict[str, Shape], int]:
    """Return the shapes of all weights at the base's widths, and the number of its tokens."""
    found = {name: place.shape for name, place in places.items()}
    try:
        widths = skeleton.measure(found)
    except (KeyError, IndexError, ValueError):
        raise BaseInvalid(f"base {folder} has other blocks than SD1.5: {GIVE}") from None
    _check_widths(folder, widths)
    own = skeleton.shapes(widths)
    for name in (*own, *found):
        if name not in own or name not in found:
            what = "no weight" if name in own else "one weight too many,"
            raise BaseInvalid(f"base {folder} has {what} {name}: {GIVE}")
        if _plain(own[name]) != _plain(found[name]):
            raise BaseInvalid(
                f"base {folder}: {name} is {_text(found[name])} and {_text(own[name])} fits its "
                f"other weights: {GIVE}"
            )
    return _completed(skeleton.shapes(replace(widths, layers=FULL.layers))), widths.tokens


def _check_widths(folder: Path, widths: Widths) -> None:
    """Refuse widths whose copies do not fill SD1.5's, or would not keep groups and heads."""
    if replace(widths, tokens=FULL.tokens) == FULL:
        raise BaseInvalid(f"base {folder} has SD1.5's size already: {GIVE}")
    pairs = [
        *zip(widths.unet, FULL.unet, strict=True),
        *zip(widths.vae, FULL.vae, strict=True),
        (widths.text, FULL.text),
        (widths.inner, FULL.inner),
    ]
    for own, full in pairs:
        if full % own:
            raise BaseInvalid(
                f"base {folder}: {own} channels do not go evenly into SD1.5's {full}: {GIVE}"
            )
    uneven = len({full // own for own, full in zip(widths.unet, FULL.unet, strict=True)}) > 1
    odd = any(own % GROUPS for own in (*widths.unet, *widths.vae)) or widths.text % HEADS
    if uneven or odd or widths.layers > FULL.layers:
        raise BaseInvalid(
            f"base {folder} cannot be widened: its UNet's levels must be one share of SD1.5's "
            f"{', '.join(map(str, FULL.unet))}, all levels multiples of {GROUPS}, the text "
            f"encoder's width one of {HEADS} and its layers at most {FULL.layers}: {GIVE}"
        )


def _completed(shapes: dict[str, Shape]) -> dict[str, Shape]:
    """Add the shortcuts that a model needs only where two levels differ in width."""
    for name in FULL_SHAPES:
        if name not in shapes:
            block, _, kind = name.partition(SHORTCUT)
            width = shapes[f"{block}.conv1.weight"][0]
            shapes[name] = (width, width, 1, 1) if kind == "weight" else (width,)
    return shapes


def _token_rows(folder: Path, tokens: int) -> Tensor:
    """Return for each of CLIP's tokens the row of the base's embedding, int64 (49408,)."""
    if tokens == FULL.tokens:
        return torch.arange(tokens)
    path = folder / CLIP_ROWS
    try:
        rows = np.load(path, allow_pickle=False).astype(np.int64)
    except (OSError, ValueError) as error:
        raise BaseInvalid(f"base: {path} cannot be read ({error}): {GIVE}") from None
    if rows.shape != (FULL.tokens,) or set(rows.tolist()) != set(range(tokens)):
        raise BaseInvalid(f"base: {path} does not fit the text encoder's {tokens} tokens: {GIVE}")
    return torch.from_numpy(rows)


def _plain(shape: Shape) -> Shape:
    """Return a shape without ones: a matrix may stand for a 1x1 convolution."""
    return tuple(size for size in shape if size != 1)


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))

"""The change of a weight that one layer of a LoRA describes: pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..errors import ShapeMismatch
from ..mask import Shape
from . import lycoris


def change(
    parts: Mapping[str, Tensor], scaling: float | None, shape: Shape, base: Callable[[], Tensor]
) -> Tensor:
    """Return the change, float32 of a shape.

    parts: float32, by the parts of `lora_names.split`. scaling: of a product of factors; None for
    alpha / rank, or 1 without an alpha. base: reads the float32 weight, for families that need it.
    Raises ShapeMismatch where they do not fit the weight, MissingDependency, and what torch and the
    package raise for parts that do not fit each other.
    """
    if "diff" in parts:
        return _fit(parts["diff"], shape)
    if "on_input" in parts:
        return _rescaled(parts, base())
    if "up" not in parts:
        return _fit(lycoris.change(parts, base()), shape)
    found = _fit(product(parts, scaling), shape)
    if "magnitude" in parts:
        return _decomposed(found, base(), parts["magnitude"], axis=0)
    if "dora_scale" in parts:  # one per output, or as older versions had it, per input
        by_input = parts["dora_scale"].shape[0] == 1 and shape[0] != 1
        return _decomposed(found, base(), parts["dora_scale"], axis=int(by_input))
    return found


def product(parts: Mapping[str, Tensor], scaling: float | None = None) -> Tensor:
    """Return scaling * up @ down, or with a core of LoCon (`mid`) the product of the three.

    down: (rank, inputs, *taps), up: (outputs, rank, ...), mid: (rank, rank, *taps), which then has
    the taps. Result: (outputs, inputs, *taps).
    """
    up, down = parts["up"], parts["down"]
    rank = down.shape[0]
    if scaling is None:
        scaling = float(parts["alpha"]) / rank if "alpha" in parts else 1.0
    up = up.reshape(up.shape[0], -1) * scaling
    if "mid" in parts:
        return torch.einsum("oa,ab...,bi->oi...", up, parts["mid"], down.reshape(rank, -1))
    return (up @ down.reshape(rank, -1)).reshape(up.shape[0], *down.shape[1:])


def _decomposed(found: Tensor, base: Tensor, magnitude: Tensor, axis: int) -> Tensor:
    """Return the change of W to m V / ||V||, V = W + product, per channel (DoRA, eq. 5)."""
    whole = base + found
    others = [other for other in range(base.ndim) if other != axis]
    norm = torch.linalg.vector_norm(whole, dim=others, keepdim=True)
    scale = magnitude.reshape(norm.shape) / norm.clamp(min=torch.finfo(norm.dtype).tiny)
    return whole * scale - base


def _rescaled(parts: Mapping[str, Tensor], base: Tensor) -> Tensor:
    """Return W times a number per input or output channel (IA3)."""
    axis = 1 if bool(parts["on_input"]) else 0
    shape = [size if axis == place else 1 for place, size in enumerate(base.shape)]
    return base * parts["weight"].reshape(shape)


def _fit(found: Tensor, shape: Shape) -> Tensor:
    """Return a change in the weight's shape: a matrix may stand for a 1x1 convolution."""
    if found.shape[:2] != shape[:2] or found.numel() != math.prod(shape):
        ours, theirs = ("x".join(map(str, sizes)) for sizes in (found.shape, shape))
        raise ShapeMismatch(
            f"it changes a weight of {ours}, and that of the base is {theirs}: give the base that "
            "it was made for"
        )
    return found.reshape(shape)

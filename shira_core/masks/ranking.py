"""Masks that take the entries with the highest score (SHiRA, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InvalidValue, ShapeMismatch
from ..mask import Mask
from .request import Request


def best(request: Request, scores: Tensor) -> Mask:
    """Return the mask of the request's slice of the entries, ranked by score.

    scores: of the weight's shape, finite. Equal scores rank by position, so the same scores give
    the same mask on every device.
    """
    start, stop = request.slice()
    flat = scores.reshape(-1)
    if flat.is_meta:
        raise InvalidValue(f"{request.where} is on the meta device: load the model's weights first")
    if not torch.isfinite(flat).all():
        raise InvalidValue(
            f"{request.where} has NaN or infinite values in its weight or gradient: "
            "the model or the calibration is broken"
        )
    chosen = _top(flat, stop)
    if start:
        chosen &= ~_top(flat, start)
    return Mask(request.shape, chosen.nonzero().view(-1))


def gradient_of(request: Request) -> Tensor:
    """Return the gradient in float32 on the weight's device, or say how to get one."""
    gradient = request.gradient
    if gradient is None:
        raise InvalidValue(
            f"this mask needs the gradient of {request.where}: pass gradient=, or gradients= from "
            "shira_core.training.calibrate(module, batches, loss_fn)"
        )
    if tuple(gradient.shape) != request.shape:
        shape = "x".join(map(str, gradient.shape))
        raise ShapeMismatch(
            f"the gradient of {request.where} is {shape}: calibrate on the model that is trained"
        )
    return gradient.detach().to(request.weight.device, torch.float32)


def _top(scores: Tensor, count: int) -> Tensor:
    """Return a bool vector of the `count` highest scores; the lowest positions win a tie."""
    least = scores.topk(count, sorted=False).values.min()
    chosen = scores > least
    ties = (scores == least).nonzero().view(-1)
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen

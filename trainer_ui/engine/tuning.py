"""The one seam between the trainer and `shira_core.training`: which weights, which gradients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from shira_core.training import Run, calibrate, finetune

from .config import Config

# The UNet's blocks; its ends (conv_in, time_embedding, conv_out) are small and change everything.
PARTS = {"all": ("attentions", "resnets"), "attention": ("attentions",)}


def start(
    config: Config, unet: nn.Module, loss: Callable[[int], Tensor]
) -> AbstractContextManager[Run]:
    """Return the context in which the chosen entries of the UNet are trained.

    loss: of calibration batch 0, 1, ...; asked only by the masks grad and snip, which measure the
    dense gradients first.
    """
    chosen = layers(unet, config.layers)
    options: dict[str, Any] = {}
    if config.mask in ("grad", "snip"):
        batches = range(config.calibration)
        # the sums are as large as the UNet, so they are kept off the device
        options["gradients"] = calibrate(
            unet, batches, lambda _, number: loss(number), layers=chosen, device="cpu"
        )
    if config.axis:
        options["axis"] = config.axis
    return finetune(
        unet,
        mask=config.mask,
        density=config.density,
        rank=config.rank,
        seed=config.seed,
        shard=config.shard,
        layers=chosen,
        values_dtype=getattr(torch, config.dtype),
        dora=config.dora,
        **options,
    )


def layers(unet: nn.Module, which: str) -> list[str]:
    """Return the names of the Linear and Conv modules to train."""
    return [
        name
        for name, module in unet.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and set(PARTS[which]) & set(name.split("."))
    ]

"""The one seam between the trainer and `shira_core.training`: which weights, which gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from shira_core.training import finetune

from .config import Config

# The UNet's blocks; its ends (conv_in, time_embedding, conv_out) are small and change everything.
PARTS = {"all": ("attentions", "resnets"), "attention": ("attentions",)}


def start(config: Config, unet: nn.Module, losses: Iterable[Tensor]) -> Any:
    """Return the context in which the chosen entries of the UNet are trained.

    losses: drawn only by the masks grad and snip, which measure the dense gradients first.
    """
    chosen = layers(unet, config.layers)
    options: dict[str, Any] = {}
    if config.mask in ("grad", "snip"):
        options["gradients"] = gradients(unet, chosen, losses)
    return finetune(
        unet,
        mask=config.mask,
        density=config.density,
        rank=config.rank,
        seed=config.seed,
        shard=config.shard,
        layers=chosen,
        dtype=getattr(torch, config.dtype),
        **options,
    )


def layers(unet: nn.Module, which: str) -> list[str]:
    """Return the names of the Linear and Conv modules to train."""
    return [
        name
        for name, module in unet.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and set(PARTS[which]) & set(name.split("."))
    ]


def gradients(unet: nn.Module, chosen: list[str], losses: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return the summed gradient of each chosen weight, {"<layer>.weight": like the weight}."""
    weights = {f"{name}.weight": unet.get_parameter(f"{name}.weight") for name in chosen}
    for weight in weights.values():
        weight.requires_grad_(True)
    try:
        for loss in losses:
            loss.backward()
        return {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
    finally:
        for weight in weights.values():
            weight.requires_grad_(False)
            weight.grad = None

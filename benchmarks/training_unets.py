"""UNets of SD1.5's and SDXL's shapes with random weights, and random batches for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

TEXT_TOKENS = 77
_XL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
}
FULL: dict[str, dict[str, Any]] = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sdxl": {
        **_XL,
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
TINY: dict[str, dict[str, Any]] = {
    "sd15": {
        "sample_size": 8,
        "block_out_channels": (32, 32, 64, 64),
        "cross_attention_dim": 48,
        "attention_head_dim": 8,
    },
    "sdxl": {
        **_XL,
        "sample_size": 8,
        "block_out_channels": (32, 32, 64),
        "attention_head_dim": (2, 2, 4),
        "transformer_layers_per_block": (1, 1, 2),
        "cross_attention_dim": 112,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 112,
    },
}


@dataclass(frozen=True)
class Batch:
    """What one step sees. latents, noise: (b, 4, h, w); noise is what should be predicted."""

    latents: Tensor
    noise: Tensor
    times: Tensor
    context: Tensor
    added: dict[str, Tensor] | None

    def predict(self, model: nn.Module) -> Tensor:
        arguments = {"added_cond_kwargs": self.added} if self.added else {}
        return model(self.latents, self.times, self.context, **arguments).sample


def build(
    config: dict[str, Any], device: torch.device, checkpointing: bool, capturable: bool = False
) -> nn.Module:
    """Return a frozen bfloat16 UNet in training mode, made on the device.

    capturable: checkpoints do not save the state of the random numbers, which no graph can read;
    a UNet without dropout draws none.
    """
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            unet = UNet2DConditionModel(**config)
    finally:
        torch.set_default_dtype(usual)
    unet.requires_grad_(False).train()
    if checkpointing:
        unet.enable_gradient_checkpointing(_checkpoint if capturable else None)
    return unet


def _checkpoint(module: nn.Module, *arguments: Any) -> Any:
    return checkpoint(module, *arguments, use_reentrant=False, preserve_rng_state=False)


def batch(config: dict[str, Any], size: int, device: torch.device, dtype: torch.dtype) -> Batch:
    """Return a random batch of `size` pictures. SDXL's has pooled texts and sizes, too."""

    def drawn(*shape: int) -> Tensor:
        return torch.randn(size, *shape, device=device, dtype=dtype)

    side, added = config["sample_size"], None
    if "addition_embed_type" in config:
        numbers = 6 * config["addition_time_embed_dim"]
        pooled = config["projection_class_embeddings_input_dim"] - numbers
        added = {"text_embeds": drawn(pooled), "time_ids": drawn(6).abs() * 100}
    times = torch.randint(1000, (size,), device=device)
    context = drawn(TEXT_TOKENS, config["cross_attention_dim"])
    return Batch(drawn(4, side, side), drawn(4, side, side), times, context, added)

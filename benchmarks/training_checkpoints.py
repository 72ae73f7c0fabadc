"""Random SD1.5 and SDXL checkpoints as users have them: one file, original names, float16."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import training_unets as unets
from torch import Tensor, nn

META = torch.device("meta")
WORDS = 49408  # of CLIP
VAE = "first_stage_model."
ATTENTION = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")  # 1x1 convolutions


@dataclass(frozen=True)
class Sizes:
    """What the shapes of a checkpoint depend on. texts: arguments of CLIPTextConfig."""

    architecture: str
    unet: dict[str, Any]
    vae: tuple[int, ...]
    texts: tuple[dict[str, Any], ...]


_TE1 = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
_TE2 = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}
_FEW = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}
_FEW_2 = {**_FEW, "hidden_size": 64, "num_attention_heads": 1, "projection_dim": 64}
_VAE, _THIN = (128, 256, 512, 512), (32, 32, 32, 32)
FULL = {
    "sd15": Sizes("sd15", unets.FULL["sd15"], _VAE, (_TE1,)),
    "sdxl": Sizes("sdxl", unets.FULL["sdxl"], _VAE, (_TE1, _TE2)),
}
TINY = {
    "sd15": Sizes("sd15", unets.TINY["sd15"], _THIN, (_FEW,)),
    "sdxl": Sizes("sdxl", unets.TINY["sdxl"], _THIN, (_FEW, _FEW_2)),
}


def write(path: Path, sizes: Sizes, device: torch.device) -> Path:
    """Write a random checkpoint, drawn on the device, whose activations stay in a usual range."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    weights = {name: _drawn(name, shape, device) for name, shape in _shapes(sizes)}
    save_file(weights, path)
    return path


def _drawn(name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape, dtype=torch.float16)
    if len(shape) == 1:  # of a normalization
        return torch.ones(shape, dtype=torch.float16)
    scale = 0.02 if "embedding" in name else math.prod(shape[1:]) ** -0.5
    return (torch.randn(shape, device=device) * scale).half().cpu()


def _shapes(sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of every weight of a checkpoint."""
    from shira_core import keymaps

    for component, module in _modules(sizes).items():
        weights = module.state_dict()
        if component == "vae":
            sources = keymaps.vae(weights, VAE)
        else:
            sources = keymaps.sources(sizes.architecture, component, weights)
        seen = set()
        for own, source in sources.items():
            if source.name not in seen:
                seen.add(source.name)
                rows, *rest = weights[own].shape
                shape = (rows * source.parts, *rest)
                if source.name.startswith(VAE) and own.endswith(ATTENTION):
                    shape = (*shape, 1, 1)
                yield source.name, shape[::-1] if source.transposed else shape


def _modules(sizes: Sizes) -> dict[str, nn.Module]:
    """Return the modules of a checkpoint, without weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kinds = (CLIPTextModel, CLIPTextModelWithProjection)
    with META:
        vae = AutoencoderKL(
            block_out_channels=sizes.vae,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
        texts = {
            f"te{n}": kind(CLIPTextConfig(**{"num_attention_heads": 12, **text}, vocab_size=WORDS))
            for n, (kind, text) in enumerate(zip(kinds, sizes.texts, strict=False), 1)
        }
        return {"unet": UNet2DConditionModel(**sizes.unet), "vae": vae, **texts}

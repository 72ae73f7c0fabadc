"""Stable Diffusion's modules in full and tiny sizes, and what diffusers' own converters say.

The converters turn checkpoint names into names of modules, the other way round than our maps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from shira_core import keymaps
from shira_core.mask import Mask, Shape, SparseDelta
from shira_core.translate import Source

PREFIXES = {
    "sd15": {"unet": "model.diffusion_model.", "te1": "cond_stage_model.transformer."},
    "sd2": {"unet": "model.diffusion_model.", "te1": "cond_stage_model.model."},
    "sdxl": {
        "unet": "model.diffusion_model.",
        "te1": "conditioner.embedders.0.transformer.",
        "te2": "conditioner.embedders.1.model.",
    },
}
_XL_UNET = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
}
UNETS: dict[tuple[str, str], dict[str, Any]] = {
    ("sd15", "full"): {"cross_attention_dim": 768, "attention_head_dim": 8},
    ("sd15", "tiny"): {
        "block_out_channels": (32, 32, 64, 64),
        "cross_attention_dim": 48,
        "attention_head_dim": 8,
    },
    ("sd2", "full"): {
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    ("sdxl", "full"): {
        **_XL_UNET,
        "block_out_channels": (320, 640, 1280),
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    ("sdxl", "tiny"): {
        **_XL_UNET,
        "block_out_channels": (32, 32, 64),
        "attention_head_dim": (2, 2, 4),
        "transformer_layers_per_block": (1, 1, 2),
        "cross_attention_dim": 48 + 64,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64 + 6 * 8,
    },
}
ATTRIBUTES = {"unet": "unet", "te1": "text_encoder", "te2": "text_encoder_2"}
# vocabulary, width, inner width, layers, heads
TEXTS = {
    ("sd15", "te1", "full"): (49408, 768, 3072, 12, 12),
    ("sd15", "te1", "tiny"): (100, 48, 96, 2, 12),
    ("sd2", "te1", "full"): (49408, 1024, 4096, 23, 16),
    ("sdxl", "te1", "full"): (49408, 768, 3072, 12, 12),
    ("sdxl", "te1", "tiny"): (100, 48, 96, 2, 12),
    ("sdxl", "te2", "full"): (49408, 1280, 5120, 32, 20),
    ("sdxl", "te2", "tiny"): (100, 64, 128, 2, 4),
}


def module(architecture: str, component: str, size: str) -> nn.Module:
    """Return the module with random weights, or none on the meta device."""
    import diffusers
    import transformers

    if component == "unet":
        return diffusers.UNet2DConditionModel(sample_size=8, **UNETS[architecture, size])
    vocabulary, width, inner, layers, heads = TEXTS[architecture, component, size]
    kind = "CLIPTextModelWithProjection" if component == "te2" else "CLIPTextModel"
    return getattr(transformers, kind)(
        transformers.CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            projection_dim=width,
            bos_token_id=0,
            eos_token_id=1,
        )
    )


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights that a checkpoint holds too (no position numbers)."""
    return {n: w for n, w in module.state_dict().items() if not n.endswith("position_ids")}


def official(
    architecture: str, component: str, module: nn.Module, checkpoint: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the checkpoint's entries under the module's names, by diffusers' converters."""
    from diffusers.loaders import single_file_utils

    prefix = PREFIXES[architecture][component]
    own = {name: value for name, value in checkpoint.items() if name.startswith(prefix)}
    if component == "unet":
        return single_file_utils.convert_ldm_unet_checkpoint(own, dict(module.config))
    if prefix.endswith(".model."):
        found = single_file_utils.convert_open_clip_checkpoint(module, own, prefix=prefix)
    else:
        found = single_file_utils.convert_ldm_clip_checkpoint(own)
    if hasattr(module, "text_model"):
        return found
    return {name.removeprefix("text_model."): value for name, value in found.items()}


def checkpoint_shapes(
    sources: Mapping[str, Source], shapes: Mapping[str, Iterable[int]]
) -> dict[str, Shape]:
    """Return the shapes of the checkpoint weights that the targets' shapes imply."""
    found = {}
    for target, source in sources.items():
        shape = tuple(shapes[target])
        rows, *rest = shape[::-1] if source.transposed else shape
        found[source.name] = (rows * source.parts, *rest)
    return found


def meta(shape: Shape) -> Tensor:
    return torch.empty(shape, device="meta")


def pipeline(architecture: str, parts: Mapping[str, nn.Module | None]) -> Any:
    """Return a pipeline of these components, without VAE and tokenizers."""
    import diffusers

    common = {
        "vae": None,
        "unet": parts["unet"],
        "text_encoder": parts["te1"],
        "tokenizer": None,
        "scheduler": diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
    }
    if architecture == "sdxl":
        pipe = diffusers.StableDiffusionXLPipeline(
            **common, text_encoder_2=parts["te2"], tokenizer_2=None
        )
    else:
        pipe = diffusers.StableDiffusionPipeline(
            **common, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def components(pipe: Any) -> dict[str, nn.Module]:
    found = {name: getattr(pipe, attribute, None) for name, attribute in ATTRIBUTES.items()}
    return {name: module for name, module in found.items() if module is not None}


def sources(architecture: str, modules: Mapping[str, nn.Module]) -> dict[str, dict[str, Source]]:
    return {c: keymaps.sources(architecture, c, m.state_dict()) for c, m in modules.items()}


def random_deltas(
    architecture: str, modules: Mapping[str, nn.Module], entries: int, seed: int = 0
) -> dict[str, SparseDelta]:
    """Up to `entries` random entries for every checkpoint weight of the modules."""
    generator = torch.Generator().manual_seed(seed)
    deltas = {}
    for component, own in sources(architecture, modules).items():
        shapes = {name: w.shape for name, w in modules[component].state_dict().items()}
        for name, shape in checkpoint_shapes(own, shapes).items():
            places = torch.randint(math.prod(shape), (entries,), generator=generator)
            positions = places.unique(sorted=True)
            values = torch.randn(len(positions), generator=generator).half()
            deltas[name] = SparseDelta(Mask(shape, positions), values)
    return deltas


def snapshot(pipe: Any) -> dict[str, Tensor]:
    return {
        f"{component}.{name}": weight.clone()
        for component, module in components(pipe).items()
        for name, weight in module.state_dict().items()
    }

"""Where the weights of an adapter lie in ComfyUI's models.

A model holds its denoiser as `diffusion_model.`, whatever the architecture. A text encoder holds
one or more models, `clip_l.`, `clip_g.`, `t5xxl.`..., each with transformers' names, where
checkpoints may have OpenCLIP's with fused projections.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from shira_core.adapter import Adapter
from shira_core.check import check_fit
from shira_core.errors import InvalidValue
from shira_core.keymaps import clip, openclip
from shira_core.names import UNET, component
from shira_core.translate import Source, translated

Tensors = Mapping[str, torch.Tensor]
DENOISER = "diffusion_model."
_ENCODERS = (
    ("clip_l", clip, "cond_stage_model.transformer.text_model."),
    ("clip_l", clip, "conditioner.embedders.0.transformer.text_model."),
    ("clip_h", openclip, "cond_stage_model.model."),
    ("clip_g", openclip, "conditioner.embedders.1.model."),
    ("clip_g", openclip, "conditioner.embedders.0.model."),
)
_OWN = "text_encoders."  # checkpoints of SD3 and later keep ComfyUI's names after it


def model_part(adapter: Adapter, weights: Tensors) -> dict[str, str]:
    """Return the denoiser's weights in an adapter by their names in ComfyUI.

    weights: of ComfyUI's model. Raises WeightMissing, ShapeMismatch, and InvalidValue for an
    adapter that also changes the VAE.
    """
    _refuse_vae(adapter)
    own = [name for name in adapter.weights if component(name) == "unet"]
    bare = not any(name.startswith(UNET) for name in own)
    shapes = {
        (key.removeprefix(DENOISER) if bare else "model." + key): tensor.shape
        for key, tensor in weights.items()
        if key.startswith(DENOISER)
    }
    elsewhere = tuple(name for name in adapter.weights if component(name) != "unet")
    check_fit(translated(adapter, {name: Source(name) for name in own}, apart=elsewhere), shapes)
    return {(DENOISER + name if bare else name.removeprefix("model.")): name for name in own}


def clip_part(adapter: Adapter, weights: Tensors) -> Adapter:
    """Return the text encoders' part of an adapter under ComfyUI's names; it may be empty.

    weights: of ComfyUI's text encoder. Raises WeightMissing, ShapeMismatch.
    """
    _refuse_vae(adapter)
    elsewhere = tuple(name for name in adapter.weights if not component(name).startswith("te"))
    part = translated(adapter, _sources(adapter, weights), apart=elsewhere)
    check_fit(part, {name: tensor.shape for name, tensor in weights.items()})
    return part


def _sources(adapter: Adapter, weights: Tensors) -> dict[str, Source]:
    """Return the source of each weight of the text encoders that the adapter knows."""
    found = {key: Source(_OWN + key) for key in weights if _OWN + key in adapter.weights}
    for encoder, scheme, prefix in _ENCODERS:
        if any(name.startswith(prefix) for name in adapter.weights):
            start = f"{encoder}.transformer."
            inside = [key.removeprefix(start) for key in weights if key.startswith(start)]
            found |= {start + name: source for name, source in scheme(inside, prefix).items()}
    return found


def _refuse_vae(adapter: Adapter) -> None:
    if any(component(name) == "vae" for name in adapter.weights):
        raise InvalidValue(
            f"{adapter.path or adapter.header.title} changes the VAE, which ComfyUI cannot patch: "
            "bake it into a checkpoint with SHiRA Bake"
        )

"""ComfyUI's models, which Forge and reForge have, too: one denoiser, and text encoders by name.

The denoiser is `diffusion_model.`, whatever the architecture. A text encoder holds one or more
models, `clip_l.`, `clip_g.`, `t5xxl.`..., each with transformers' names.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..adapter import Adapter
from ..check import check_fit
from ..mask import Shape
from ..names import UNET, component
from ..translate import Source, translated
from .clip import clip
from .openclip import openclip

DENOISER = "diffusion_model."
_ENCODERS = (
    ("clip_l", clip, "cond_stage_model.transformer.text_model."),
    ("clip_l", clip, "conditioner.embedders.0.transformer.text_model."),
    ("clip_h", openclip, "cond_stage_model.model."),
    ("clip_g", openclip, "conditioner.embedders.1.model."),
    ("clip_g", openclip, "conditioner.embedders.0.model."),
)
_OWN = "text_encoders."  # checkpoints of SD3 and later keep these names after it


def denoiser(adapter: Adapter, shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Return the denoiser's weights in an adapter by their names in the host.

    shapes: of the host's model, by its names. Raises WeightMissing, ShapeMismatch.
    """
    own = [name for name in adapter.weights if component(name) == "unet"]
    bare = not any(name.startswith(UNET) for name in own)
    known = {
        (key.removeprefix(DENOISER) if bare else "model." + key): shape
        for key, shape in shapes.items()
        if key.startswith(DENOISER)
    }
    elsewhere = tuple(name for name in adapter.weights if component(name) != "unet")
    check_fit(translated(adapter, {name: Source(name) for name in own}, apart=elsewhere), known)
    return {(DENOISER + name if bare else name.removeprefix("model.")): name for name in own}


def encoders(adapter: Adapter, shapes: Mapping[str, Shape]) -> Adapter:
    """Return the text encoders' part of an adapter under the host's names; it may be empty.

    shapes: of the host's text encoder, by its names. Raises WeightMissing, ShapeMismatch.
    """
    elsewhere = tuple(name for name in adapter.weights if not component(name).startswith("te"))
    part = translated(adapter, _sources(adapter, shapes), apart=elsewhere)
    check_fit(part, shapes)
    return part


def _sources(adapter: Adapter, shapes: Mapping[str, Shape]) -> dict[str, Source]:
    """Return the source of each weight of the text encoders that the adapter knows."""
    found = {key: Source(_OWN + key) for key in shapes if _OWN + key in adapter.weights}
    for encoder, scheme, prefix in _ENCODERS:
        if any(name.startswith(prefix) for name in adapter.weights):
            start = f"{encoder}.transformer."
            inside = [key.removeprefix(start) for key in shapes if key.startswith(start)]
            found |= {start + name: source for name, source in scheme(inside, prefix).items()}
    return found

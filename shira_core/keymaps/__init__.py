"""Where the weights of diffusers and transformers modules lie in the original checkpoints.

One module per naming scheme; the tables below say which scheme and which prefix each text encoder
of an architecture has. A new architecture is a row here, and a scheme if it brings a new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .. import names as checkpoint
from ..errors import ArchitectureMismatch
from ..mask import Shape
from ..translate import Source
from .clip import clip, clip_names
from .openclip import openclip, openclip_names
from .unet import unet, unet_names
from .vae import vae

__all__ = ["architecture", "clip", "openclip", "sources", "targets", "unet", "vae"]

_SD1 = {"te1": (clip, "cond_stage_model.transformer.text_model.")}
_TEXT = {
    "sd15": _SD1,
    "sd15-compact": _SD1,
    "sd2": {"te1": (openclip, "cond_stage_model.model.")},
    "sdxl": {
        "te1": (clip, "conditioner.embedders.0.transformer.text_model."),
        "te2": (openclip, "conditioner.embedders.1.model."),
    },
}
_CANDIDATES = {clip: clip_names, openclip: openclip_names}


def sources(architecture: str, component: str, names: Iterable[str]) -> dict[str, Source]:
    """Return the source of each weight of a module, by its name there.

    architecture: as `names.detect` says. component: "unet", "te1" or "te2".
    names: all names of the module; those that no checkpoint has (position numbers, a second text
    encoder where there is one) are left out.
    Raises ArchitectureMismatch for an architecture without a map.
    """
    if architecture not in _TEXT:
        known = ", ".join(checkpoint.label(each) for each in _TEXT)
        raise ArchitectureMismatch(
            f"no map from diffusers to checkpoint names fits this model (architecture "
            f"{architecture}): use one of {known}"
        )
    if component == "unet":
        return unet(names, checkpoint.UNET)
    if component not in _TEXT[architecture]:
        return {}
    scheme, prefix = _TEXT[architecture][component]
    return scheme(names, prefix)


def targets(shapes: Mapping[str, Shape], kind: str = "") -> dict[str, Source]:
    """Return the source of each weight that diffusers and transformers have of a checkpoint.

    shapes: of the checkpoint, by name; with its architecture as `kind`, of some of its weights. The
    result's names begin with the component: "unet.conv_in.weight",
    "te1.encoder.layers.0.mlp.fc1.weight". It undoes `sources`, and is empty for an architecture
    without a map.
    """
    kind = kind or checkpoint.detect(shapes)
    candidates = {"unet": unet_names(shapes, checkpoint.UNET)} if kind in _TEXT else {}
    for component, (scheme, prefix) in _TEXT.get(kind, {}).items():
        candidates[component] = _CANDIDATES[scheme](shapes, prefix)
    return {
        f"{component}.{name}": source
        for component, names in candidates.items()
        for name, source in sources(kind, component, names).items()
        if source.name in shapes
    }


def architecture(shapes: Mapping[str, Shape]) -> str:
    """Return the architecture of a diffusers UNet as `names.detect` calls it.

    shapes: shape of each weight of the UNet, by its name there.
    """
    found = unet(shapes, checkpoint.UNET)
    return checkpoint.detect({source.name: shapes[name] for name, source in found.items()})

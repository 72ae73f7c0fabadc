"""What a checkpoint's weight names say: component, block, architecture. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

COMPONENTS = ("unet", "te1", "te2", "te3", "vae")
LABELS = {
    "sd15": "SD1.5",
    "sd15-compact": "compact SD1.5",
    "sd2": "SD2.x",
    "sdxl": "SDXL",
    "sdxl-refiner": "SDXL refiner",
    "sd3": "SD3",
    "flux": "Flux",
}
UNET = "model.diffusion_model."
_SDXL = "conditioner.embedders."
_CONTEXTS = tuple(
    f"input_blocks.{number}.1.transformer_blocks.0.attn2.to_k.weight" for number in (1, 4)
)
_PREFIXES = {
    "cond_stage_model.": "te1",
    "conditioner.embedders.0.": "te1",
    "conditioner.embedders.1.": "te2",
    "text_encoders.clip_l.": "te1",
    "text_encoders.clip_g.": "te2",
    "text_encoders.t5xxl.": "te3",
    "text_encoder.": "te1",
    "text_encoder_2.": "te2",
    "text_encoder_3.": "te3",
    "first_stage_model.": "vae",
    "vae.": "vae",
}
_BLOCKS = (
    (re.compile(r"(?:^|\.)input_blocks\.(\d+)\."), "in"),
    (re.compile(r"(?:^|\.)output_blocks\.(\d+)\."), "out"),
    (re.compile(r"(?:^|\.)middle_block()\."), "mid"),
    (re.compile(r"(?:^|\.)double_blocks\.(\d+)\."), "double"),
    (re.compile(r"(?:^|\.)single_blocks\.(\d+)\."), "single"),
    (re.compile(r"(?:^|\.)joint_blocks\.(\d+)\."), "joint"),
    (re.compile(r"(?:^|\.)blocks\.(\d+)\."), "block"),
)
_TEXT_LAYER = re.compile(r"(?:layers|resblocks|block)\.(\d+)\.")


def component(name: str) -> str:
    """Return the component of a weight: one of COMPONENTS; "unet" for any denoiser."""
    for prefix, found in _PREFIXES.items():
        if name.startswith(prefix):
            return found
    return "unet"


def block(name: str) -> str:
    """Return the block of a weight, such as "in4", "mid", "out11", "double3", "te1.7", or ""."""
    place = component(name)
    if place.startswith("te"):
        found = _TEXT_LAYER.search(name)
        return f"{place}.{int(found[1])}" if found else ""
    if place == "vae":
        return ""
    for pattern, kind in _BLOCKS:
        found = pattern.search(name)
        if found:
            return kind + (str(int(found[1])) if found[1] else "")
    return ""


def detect(shapes: Mapping[str, Iterable[int]]) -> str:
    """Return the architecture of a checkpoint: a key of LABELS, or "unknown".

    shapes: shape by weight name. "sd15-compact" has SD1.5's topology in other widths.
    """
    first = tuple(shapes.get(UNET + "input_blocks.0.0.weight", ()))
    context = next((tuple(shapes[UNET + name]) for name in _CONTEXTS if UNET + name in shapes), ())
    if f"{UNET}label_emb.0.0.weight" in shapes or any(n.startswith(_SDXL) for n in shapes):
        return "sdxl-refiner" if context[-1:] == (1280,) else "sdxl"
    if first and context:
        if context[-1] == 1024:
            return "sd2"
        return "sd15" if (first[0], context[-1]) == (320, 768) else "sd15-compact"
    for part, architecture in (("double_blocks.", "flux"), ("joint_blocks.", "sd3")):
        if any(part in name for name in shapes):
            return architecture
    return "unknown"


def label(architecture: str) -> str:
    """Return the architecture as people call it."""
    return LABELS.get(architecture, architecture or "unknown")

"""What the tensors of a LoRA are called, and which weights of a model they change.

A tensor's name is that of a layer, as one of many programs calls it, and of a part: the factor
`lora_up.weight` of layer `lora_unet_mid_block_attentions_0_proj_in`, say. Layers are looked up
among all names that the base's own weights have, in its checkpoint, in diffusers and transformers,
with every `.` as `_`: so names of any architecture are found that are those of its checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .. import keymaps
from ..mask import Shape
from ..names import UNET, component
from ..translate import Source

_FACTOR = r"[._]lora(?:_linear_layer)?[._](?:{})(?:\.default)?\.weight"
_PARTS = (
    (re.compile(_FACTOR.format("down|A")), "down"),
    (re.compile(_FACTOR.format("up|B")), "up"),
    (re.compile(r"\.lora_mid\.weight"), "mid"),
    (re.compile(r"\.lora_magnitude_vector(?:\.default)?(?:\.weight)?"), "magnitude"),
    (re.compile(r"\.(?:diff|w_norm)"), "diff"),
    (re.compile(r"\.(?:diff_b|b_norm)"), "bias"),
)
_OTHER = re.compile(
    r"\.((?:hada|lokr|oft)_\w+|[ab][12m]\.weight|on_input|dora_scale|rescale|alpha|weight)"
)
_TELLING = {
    *("down", "up", "diff", "on_input", "oft_blocks", "a1.weight"),
    *("hada_w1_a", "lokr_w1", "lokr_w1_a"),
}
# How layers begin, longest first, and the component that each beginning tells.
_STARTS = {
    "lora_unet_": "unet",
    "lora_te1_": "te1",
    "lora_te2_": "te2",
    "lora_te_": "te1",
    "lycoris_": "",
    "text_encoders.clip_l.transformer.": "te1",
    "text_encoders.clip_g.transformer.": "te2",
    "text_encoder_2.": "te2",
    "text_encoder.": "te1",
    "base_model.model.": "",
    "diffusion_model.": "unet",
    "transformer.": "unet",
    "unet.": "unet",
}
_TEXT = "text_model."


def split(name: str) -> tuple[str, str]:
    """Return the layer and the part that a tensor's name says; the part is "" for another name.

    Parts: down, up, mid, magnitude, diff, bias and alpha; others as LyCORIS calls them.
    """
    for pattern, part in _PARTS:
        found = re.fullmatch(rf"(.+){pattern.pattern}", name)
        if found:
            return found[1], part
    found = re.fullmatch(rf"(.+?){_OTHER.pattern}", name)
    return (found[1], found[2]) if found else (name, "")


def telling(name: str) -> bool:
    """Tell whether only a LoRA, of any family, has a tensor of this name."""
    return split(name)[1] in _TELLING


class Layers:
    """The layers of a model by all names that they have. shapes: of the model's checkpoint."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._found: dict[str, dict[str, Source]] = {"": {}}
        for name in shapes:
            kind, short = _short(name)
            self._add("", name, Source(name))
            self._add(kind, short, Source(name))
        for target, source in keymaps.targets(shapes).items():
            kind, _, name = target.partition(".")
            self._add(kind, name, source)
            if kind != "unet":
                self._add(kind, _TEXT + name, source)

    def find(self, layer: str, leaf: str) -> Source | None:
        """Return the weight that a layer of a LoRA stands for. leaf: "weight" or "bias".

        None when there is no such weight, or, for a name without a component, more than one.
        """
        start = next((start for start in _STARTS if layer.startswith(start)), "")
        kind = _STARTS.get(start, "")
        rest = layer[len(start) :].replace(".processor.", ".")
        for ending in (f".{leaf}", f".0.{leaf}"):  # older diffusers: to_out for to_out.0
            found = self._all(kind, rest + ending)
            if found:
                return found.pop() if len(found) == 1 else None
        return None

    def _all(self, kind: str, name: str) -> set[Source]:
        kinds: Iterable[str] = [kind] if kind else self._found
        return {self._found[k][_flat(name)] for k in kinds if _flat(name) in self._found.get(k, {})}

    def _add(self, kind: str, name: str, source: Source) -> None:
        self._found.setdefault(kind, {}).setdefault(_flat(name), source)


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _short(name: str) -> tuple[str, str]:
    """Return the component of a checkpoint's weight, and its name inside of it."""
    kind = component(name)
    if kind == "unet":
        return kind, name.removeprefix(UNET)
    if name.startswith("text_encoders."):
        return kind, name.partition("transformer.")[2]
    return kind, name

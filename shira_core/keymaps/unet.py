"""diffusers' UNet2DConditionModel as SD1.5, SD2 and SDXL checkpoints name it, of any width."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

from ..translate import Source

_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_INSIDE = {
    "resnets": [f"{layer}.{kind}" for layer in _RESNET for kind in ("weight", "bias")],
    "downsamplers": ["conv.weight", "conv.bias"],
    "upsamplers": ["conv.weight", "conv.bias"],
}
_BLOCK = re.compile(
    r"(down|up|mid)_blocks?\.(?:(\d)\.)?(attentions|resnets|downsamplers|upsamplers)\.(\d)\.(.+)"
)
_PER_LEVEL = 3  # slots that each level of resolution takes in the flat list of blocks
_LEVELS = range(4)
_ATTENTION = re.compile(r"blocks?\.(?:\d+\.)?1\.((?:norm|proj_in|proj_out|transformer_blocks)\..+)")
_ATTENTIVE = re.compile(r"output_blocks\.(\d+)\.(?:1\.(?:norm|proj|transformer)|2\.)")


def unet(names: Iterable[str], prefix: str) -> dict[str, Source]:
    """Return the source of each weight of the UNet; names that fit no pattern are left out.

    names: all names of the UNet, since they tell which levels have attention.
    prefix: of the UNet in the checkpoint, "model.diffusion_model.".
    """
    names = list(names)
    attentive = {match[1] for name in names if (match := re.match(r"up_blocks\.(\d)\.att", name))}
    originals = {name: _original(name, attentive) for name in names}
    return {name: Source(prefix + original) for name, original in originals.items() if original}


def unet_names(names: Collection[str], prefix: str) -> list[str]:
    """Return the names that weights of a checkpoint's UNet can have in diffusers, and more.

    names: of the checkpoint, or some of them. What `unet` places outside of it does not exist in
    this model.
    """
    bare = [name.removeprefix(prefix) for name in names]
    attentive = {int(match[1]) // _PER_LEVEL for name in bare if (match := _ATTENTIVE.match(name))}
    found = (match[1] for name in bare if (match := _ATTENTION.search(name)))
    inside = dict.fromkeys(["norm.weight", *found])  # never empty, so that `unet` sees attention
    ends = [f"{layer}.{kind}" for layer in _ENDS for kind in ("weight", "bias")]
    return ends + [
        f"{block}.{inner}"
        for block, part in _blocks(attentive)
        for inner in (inside if part == "attentions" else _INSIDE[part])
    ]


def _blocks(attentive: Collection[int]) -> Iterator[tuple[str, str]]:
    """Return the parts that blocks can have, with their kinds; upwards only some have attention."""
    for part, number in (("attentions", 0), ("resnets", 0), ("resnets", 1)):
        yield f"mid_block.{part}.{number}", part
    for level in _LEVELS:
        for side, numbers in (("down", range(_PER_LEVEL - 1)), ("up", range(_PER_LEVEL))):
            parts = (
                ("resnets", "attentions") if side == "down" or level in attentive else ("resnets",)
            )
            yield from (
                (f"{side}_blocks.{level}.{part}.{n}", part) for part in parts for n in numbers
            )
            yield f"{side}_blocks.{level}.{side}samplers.0", f"{side}samplers"


def _original(name: str, attentive: set[str]) -> str | None:
    match = _BLOCK.fullmatch(name)
    if match is None:
        return _renamed(name, _ENDS)
    side, level, part, number, rest = match.groups()
    inner: str | None = rest
    if part == "resnets":
        inner = _renamed(rest, _RESNET)
    elif part == "downsamplers":
        inner = rest.replace("conv", "op")
    block = _block(side, int(level or 0), part, int(number), level in attentive)
    return inner and f"{block}.{inner}"


def _renamed(name: str, layers: dict[str, str]) -> str | None:
    layer, _, kind = name.rpartition(".")
    return f"{layers[layer]}.{kind}" if layer in layers else None


def _block(side: str, level: int, part: str, number: int, attentive: bool) -> str:
    """Return e.g. input_blocks.4.1 for attention 0 of down level 1."""
    if side == "mid":
        return f"middle_block.{1 if part == 'attentions' else 2 * number}"
    first = _PER_LEVEL * level
    if part == "downsamplers":
        return f"input_blocks.{first + 3}.0"
    if part == "upsamplers":
        return f"output_blocks.{first + 2}.{2 if attentive else 1}"
    slot = int(part == "attentions")
    if side == "down":
        return f"input_blocks.{first + number + 1}.{slot}"
    return f"output_blocks.{first + number}.{slot}"

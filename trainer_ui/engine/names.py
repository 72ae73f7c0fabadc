"""Original checkpoint names of the weights of diffusers' SD1.5 UNet, of any width."""

from __future__ import annotations

import re

from torch import nn

PREFIX = "model.diffusion_model."
_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
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
_BLOCK = re.compile(r"(down|up|mid)_blocks?\.(?:(\d)\.)?(\w+?)\.(\d)\.(.+)")


def original_names(unet: nn.Module) -> dict[str, str]:
    """Return {name in the module: name in the checkpoint} of every weight."""
    return {name: original_name(name) for name in unet.state_dict()}


def original_name(name: str) -> str:
    """Return the original name of one weight of the UNet."""
    match = _BLOCK.fullmatch(name)
    if match is None:
        layer, _, kind = name.rpartition(".")
        return f"{PREFIX}{_ENDS[layer]}.{kind}"
    side, block, part, number, rest = match.groups()
    if part == "resnets":
        layer, _, kind = rest.rpartition(".")
        rest = f"{_RESNET[layer]}.{kind}"
    return f"{PREFIX}{_place(side, int(block or 0), part, int(number))}.{_sampler(part, rest)}"


def _place(side: str, block: int, part: str, number: int) -> str:
    """Return e.g. input_blocks.4.1 for attention 0 of down block 1."""
    if side == "mid":
        return f"middle_block.{1 if part == 'attentions' else 2 * number}"
    if part == "downsamplers":
        return f"input_blocks.{3 * block + 3}.0"
    if part == "upsamplers":
        return f"output_blocks.{3 * block + 2}.{1 if block == 0 else 2}"
    slot = int(part == "attentions")
    if side == "down":
        return f"input_blocks.{3 * block + number + 1}.{slot}"
    return f"output_blocks.{3 * block + number}.{slot}"


def _sampler(part: str, rest: str) -> str:
    return rest.replace("conv", "op") if part == "downsamplers" else rest

"""diffusers' AutoencoderKL as SD checkpoints name it, of any width."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..translate import Source

_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_RULES = (
    (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d)", lambda m: f"up.{3 - int(m[1])}"),
    (r"(up\.\d)\.resnets", r"\1.block"),
    (r"(up\.\d)\.upsamplers\.0", r"\1.upsample"),
    (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"mid_block\.attentions\.0\.to_", "mid.attn_1."),
    ("conv_shortcut", "nin_shortcut"),
    ("conv_norm_out", "norm_out"),
)


def vae(names: Iterable[str], prefix: str) -> dict[str, Source]:
    """Return the source of each weight of the autoencoder; other names are left out.

    The attention's matrices (n, n) are 1x1 convolutions (n, n, 1, 1) in the checkpoint.
    prefix: of the autoencoder in the checkpoint, "first_stage_model.".
    """
    return {name: Source(prefix + _original(name)) for name in names if name.startswith(_PARTS)}


def _original(name: str) -> str:
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name

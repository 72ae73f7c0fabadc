"""transformers' CLIP text model as OpenCLIP names it: SDXL's second text encoder, SD2's first.

OpenCLIP fuses the projections of an attention into `in_proj_weight` and `in_proj_bias`, rows
[q; k; v], and multiplies by `text_projection` from the right, so that it is stored transposed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..translate import Source

_ENDS = {
    "text_projection.weight": Source("text_projection", transposed=True),
    "embeddings.token_embedding.weight": Source("token_embedding.weight"),
    "embeddings.position_embedding.weight": Source("positional_embedding"),
    "final_layer_norm.weight": Source("ln_final.weight"),
    "final_layer_norm.bias": Source("ln_final.bias"),
}
_LAYERS = {
    "self_attn.q_proj": ("attn.in_proj_", 0, 3),
    "self_attn.k_proj": ("attn.in_proj_", 1, 3),
    "self_attn.v_proj": ("attn.in_proj_", 2, 3),
    "self_attn.out_proj": ("attn.out_proj.", 0, 1),
    "mlp.fc1": ("mlp.c_fc.", 0, 1),
    "mlp.fc2": ("mlp.c_proj.", 0, 1),
    "layer_norm1": ("ln_1.", 0, 1),
    "layer_norm2": ("ln_2.", 0, 1),
}
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def openclip(names: Iterable[str], prefix: str) -> dict[str, Source]:
    """Return the source of each weight of an OpenCLIP text model; other names are left out.

    prefix: of the text model in the checkpoint, e.g. "conditioner.embedders.1.model.".
    """
    found = {name: _source(name.removeprefix("text_model."), prefix) for name in names}
    return {name: source for name, source in found.items() if source}


def openclip_names(names: Iterable[str], prefix: str) -> list[str]:
    """Return the names that weights of a checkpoint's OpenCLIP can have in transformers.

    names: of the checkpoint. What `openclip` places outside of it does not exist in this model.
    """
    start = f"{prefix}transformer.resblocks."
    layers = {name[len(start) :].partition(".")[0] for name in names if name.startswith(start)}
    return [*_ENDS] + [
        f"encoder.layers.{layer}.{part}.{kind}"
        for layer in sorted(layers, key=int)
        for part in _LAYERS
        for kind in ("weight", "bias")
    ]


def _source(name: str, prefix: str) -> Source | None:
    if name in _ENDS:
        end = _ENDS[name]
        return Source(prefix + end.name, transposed=end.transposed)
    match = _LAYER.fullmatch(name)
    if match is None or match[2] not in _LAYERS:
        return None
    layer, part, parts = _LAYERS[match[2]]
    return Source(f"{prefix}transformer.resblocks.{match[1]}.{layer}{match[3]}", part, parts)

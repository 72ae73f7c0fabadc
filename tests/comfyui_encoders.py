"""The scenario of a text encoder with SDXL's names, for `comfyui_scenarios.py`."""

from __future__ import annotations

from typing import Any

import torch
from comfyui_setting import Setting, digest, near, random_adapter
from torch import nn

TEXT_VALUE = 0.25
_LAYER = "text_model.encoder.layers.0."
TEXT: dict[str, tuple[int, ...]] = {
    f"clip_l.transformer.{_LAYER}mlp.fc1.weight": (6, 4),
    f"clip_l.transformer.{_LAYER}mlp.fc2.weight": (4, 6),
    **{f"clip_g.transformer.{_LAYER}self_attn.{part}_proj.weight": (8, 8) for part in "qkv"},
    **{f"clip_g.transformer.{_LAYER}self_attn.{part}_proj.bias": (8,) for part in "qkv"},
    "clip_g.transformer.text_projection.weight": (5, 8),
}


class TextEncoder:
    """A text encoder as nodes hand it on: a patcher that is cloned with it."""

    def __init__(self, patcher: Any) -> None:
        self.patcher = patcher

    def clone(self) -> TextEncoder:
        return TextEncoder(self.patcher.clone())


def encoders(s: Setting) -> dict[str, Any]:
    """SDXL's: checkpoints hold the second one with fused projections and turned at its end."""
    encoder = TextEncoder(type(s.model)(tree(TEXT), torch.device("cpu"), torch.device("cpu")))
    layer = "transformer.resblocks.0.attn.in_proj_"
    shapes = {
        "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (6, 4),
        f"conditioner.embedders.1.model.{layer}weight": (24, 8),
        f"conditioner.embedders.1.model.{layer}bias": (24,),
        "conditioner.embedders.1.model.text_projection": (8, 5),
    }
    adapter = random_adapter(shapes, 7)
    adapter.save(s.folder / "text.shira")
    first, fused, bias, turned = (adapter.weights[name].dense() for name in shapes)
    layer = "clip_g.transformer.text_model.encoder.layers.0.self_attn."
    wanted = {
        "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight": first,
        **{f"{layer}{p}_proj.weight": fused[8 * i : 8 * i + 8] for i, p in enumerate("qkv")},
        **{f"{layer}{p}_proj.bias": bias[8 * i : 8 * i + 8] for i, p in enumerate("qkv")},
        "clip_g.transformer.text_projection.weight": turned.T,
    }
    before = digest(encoder.patcher.model)
    given = s.nodes["SHiRALoader"]().load(s.model, "text.shira", 1.0, 0.5, clip=encoder)
    patcher = given["result"][1].patcher
    patcher.partially_load(torch.device("cpu"), 1e32)
    weights = {name: tensor.clone() for name, tensor in patcher.model.state_dict().items()}
    patcher.detach()
    alone = s.error("text.shira")
    return {
        "weights": all(near(weights[k], TEXT_VALUE + 0.5 * v) for k, v in wanted.items()),
        "nothing else": all(
            bool((weights[k] == TEXT_VALUE).all()) for k in set(TEXT) - set(wanted)
        ),
        "all names": set(wanted) <= set(TEXT),
        "given back": digest(encoder.patcher.model) == before,
        "asks for the text encoder": "connect clip" in alone,
    }


def tree(shapes: dict[str, tuple[int, ...]]) -> nn.Module:
    """Return a module with these weights, all TEXT_VALUE."""
    root = nn.Module()
    for name, shape in shapes.items():
        *path, last = name.split(".")
        owner = root
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        value = torch.full(shape, TEXT_VALUE)
        setattr(owner, last, nn.Parameter(value, requires_grad=False))
    return root

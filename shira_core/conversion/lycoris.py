"""Changes of weights that LyCORIS families describe, by the lycoris-lora package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MissingDependency

_CONVOLUTIONS: dict[int, Any] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_LAYER = "layer"


@torch.no_grad()
def change(parts: Mapping[str, Tensor], weight: Tensor) -> Tensor:
    """Return the change of a float32 weight that the parts of a layer describe.

    parts: float32, by LyCORIS's names: hada_*, lokr_*, oft_*, a1.weight..., alpha, dora_scale.
    Raises MissingDependency, and ValueError or RuntimeError for parts that do not fit.
    """
    package = _package()
    # The package asks for an alpha; 0 says that there is none.
    named = {f"{_LAYER}.alpha": torch.zeros(())} | {f"{_LAYER}.{k}": v for k, v in parts.items()}
    family, weights = package.get_module(named, _LAYER)
    module = package.make_module(family, weights, _LAYER, _stand_in(weight)) if family else None
    if module is None:
        raise ValueError("its parts are of no known family")
    # LoHa's and LoKr's own get_diff_weight scale twice (lycoris-lora 4.1.3); they train with this:
    own = hasattr(module, "get_weight")
    found: Tensor = module.get_weight(weight.shape) if own else module.get_diff_weight()[0]
    found = found.reshape(weight.shape)
    if "dora_scale" in parts:
        found = module.apply_weight_decompose(weight + found) - weight
    return found


def _package() -> Any:
    try:
        from lycoris import modules
    except ImportError as error:
        raise MissingDependency(
            "LoHa, LoKr, OFT, BOFT and GLoRA need the package lycoris-lora: install it with "
            f"`pip install lycoris-lora` ({error})"
        ) from None
    return modules


def _stand_in(weight: Tensor) -> nn.Module:
    """Return a layer that holds a weight, as the package takes it."""
    outputs, inputs, *taps = weight.shape
    if taps:
        kind = _CONVOLUTIONS[weight.ndim]
        layer: nn.Module = kind(inputs, outputs, tuple(taps), bias=False, device="meta")
    else:
        layer = nn.Linear(inputs, outputs, bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer

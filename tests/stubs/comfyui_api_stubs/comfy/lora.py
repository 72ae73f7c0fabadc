"""A weight and its patches, one after the other."""

from __future__ import annotations

from typing import Any

import torch

from comfy.weight_adapter.base import WeightAdapterBase


def calculate_weight(
    patches: Any,
    weight: torch.Tensor,
    key: str,
    intermediate_dtype: torch.dtype = torch.float32,
    original_weights: Any = None,
) -> torch.Tensor:
    for strength, what, strength_model, offset, function in patches:
        function = function or (lambda given: given)
        whole, weight = weight, weight.narrow(*offset) if offset else weight
        if strength_model != 1.0:
            weight *= strength_model
        if isinstance(what, list):  # another model's weight with its own patches
            (other, convert), *rest = what
            copied = convert(other.to(intermediate_dtype, copy=True), inplace=True)
            what = (calculate_weight(rest, copied, key, intermediate_dtype),)
        if isinstance(what, WeightAdapterBase):
            weight = what.calculate_weight(
                weight,
                key,
                strength,
                strength_model,
                offset,
                function,
                intermediate_dtype,
                original_weights,
            )
        else:
            difference = what[1][0] if what[0] == "diff" else what[0]
            weight += function(strength * difference.to(weight.dtype))
        weight = whole if offset else weight
    return weight

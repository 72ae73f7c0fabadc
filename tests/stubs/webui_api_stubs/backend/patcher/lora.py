"""Forge: patches are merged into weights, anew when their names change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

extra_weight_calculators: dict[str, Callable[..., Tensor]] = {}


@torch.inference_mode()
def merge_lora_to_weight(
    patches: Any,
    weight: Tensor,
    key: str = "online_lora",
    computation_dtype: torch.dtype = torch.float32,
) -> Tensor:
    dtype, weight = weight.dtype, weight.to(computation_dtype, copy=True)
    for strength, (kind, what), _strength_model, _offset, _function in patches:
        if kind in extra_weight_calculators:
            weight = extra_weight_calculators[kind](weight, strength, what)
        else:
            weight += strength * what[0].to(weight.dtype)
    return weight.to(dtype)


class LoraLoader:
    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.backup = model, {}
        self.loaded_hash = str([])

    @torch.inference_mode()
    def refresh(
        self,
        lora_patches: Any,
        offload_device: torch.device = torch.device("cpu"),  # noqa: B008 - as the host has it
        force_refresh: bool = False,
    ) -> None:
        names = str(list(lora_patches))
        if names == self.loaded_hash:
            return
        for key, weight in self.backup.items():
            _put(self.model, key, weight)
        self.backup = {}
        patches: dict[str, list[Any]] = {}
        for found in lora_patches.values():
            for key, each in found.items():
                patches.setdefault(key, []).extend(each)
        for key, each in patches.items():
            self.backup[key] = self.model.get_parameter(key)
            merged = merge_lora_to_weight(each, self.backup[key], key)
            _put(self.model, key, torch.nn.Parameter(merged, requires_grad=False))
        self.loaded_hash = names


def _put(model: torch.nn.Module, key: str, weight: torch.nn.Parameter) -> None:
    path, _, name = key.rpartition(".")
    setattr(model.get_submodule(path), name, weight)

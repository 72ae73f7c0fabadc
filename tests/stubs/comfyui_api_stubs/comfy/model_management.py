"""Which models are loaded; one device."""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch


class VRAMState(Enum):
    DISABLED = 0
    NO_VRAM = 1
    LOW_VRAM = 2
    NORMAL_VRAM = 3


class InterruptProcessingException(Exception):
    pass


vram_state = VRAMState.DISABLED
interrupted = False
current_loaded_models: list[Any] = []


def throw_exception_if_processing_interrupted() -> None:
    if interrupted:
        raise InterruptProcessingException


def cast_to_device(
    tensor: torch.Tensor, device: torch.device, dtype: torch.dtype, copy: bool = False
) -> torch.Tensor:
    return tensor.to(device=device, dtype=dtype, copy=copy)


def load_models_gpu(models: list[Any]) -> None:
    for model in models:
        clones = [each for each in current_loaded_models if each.is_clone(model)]
        for each in clones:
            current_loaded_models.remove(each)
            if each is not model:
                each.detach(unpatch_all=False)
        model.partially_load(model.load_device, 1e32)
        current_loaded_models.append(model)


def unload_all_models() -> None:
    while current_loaded_models:
        current_loaded_models.pop().detach()

"""An adapter from two models: the largest changes of each weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import comfy.lora
import comfy.model_management
import torch
from torch import Tensor

from shira_core.adapter import Adapter, Header, MemoryWeights
from shira_core.errors import InvalidValue
from shira_core.keymaps.comfy import DENOISER
from shira_core.mask import Mask, SparseDelta
from shira_core.names import UNET, detect

Step = Callable[[], None]


def extract(tuned: Any, base: Any, density: float, step: Step, **header: Any) -> Adapter:
    """Return the adapter that brings `base` near to `tuned`, patches of both included.

    density: share of each changed weight that is kept, those that changed most. `step` is called
    for every weight. Raises InvalidValue for models of different architectures, or equal ones.
    """
    first, second = tuned.get_key_patches(DENOISER), base.get_key_patches(DENOISER)
    if {k: v[0][0].shape for k, v in first.items()} != {
        k: v[0][0].shape for k, v in second.items()
    }:
        raise InvalidValue("the two models have different weights: take two of one architecture")
    weights = MemoryWeights()
    for name, delta in _deltas(first, second, step):
        kept = _largest(delta, density)
        if kept is not None:
            weights[UNET + name.removeprefix(DENOISER)] = kept
    if not weights:
        raise InvalidValue("the two models are the same: there is nothing to save")
    shapes = {f"model.{key}": tuple(found[0][0].shape) for key, found in first.items()}
    return Adapter(Header(architecture=detect(shapes), density=density, **header), weights)


def _deltas(first: Any, second: Any, step: Step) -> Iterator[tuple[str, Tensor]]:
    for key in first:
        step()
        if first[key][0][0].dtype.is_floating_point:
            yield key, effective(first[key], key) - effective(second[key], key)


def effective(patches: Any, key: str) -> Tensor:
    """Return a weight with its patches, float32 on the CPU, as the host would compute it."""
    (weight, convert), *rest = patches
    cpu = torch.device("cpu")
    copied = comfy.model_management.cast_to_device(weight, cpu, torch.float32, copy=True)
    found: Tensor = comfy.lora.calculate_weight(rest, convert(copied, inplace=True), key)
    return found


def _largest(delta: Tensor, density: float) -> SparseDelta | None:
    flat = delta.reshape(-1)
    count = min(int(torch.count_nonzero(flat)), max(1, round(density * flat.numel())))
    if not count:
        return None
    positions = torch.topk(flat.abs(), count).indices.sort().values
    values = flat[positions].half()
    return SparseDelta(Mask(tuple(delta.shape), positions), values)

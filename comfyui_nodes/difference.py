"""An adapter from two models: the largest changes, chosen as `shira extract` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.lora
import comfy.model_management
import torch
from torch import Tensor

from shira_core.adapter import Adapter, Header
from shira_core.conversion.choice import Choice, Energy
from shira_core.conversion.select import Deltas, Progress, select
from shira_core.errors import InvalidValue
from shira_core.keymaps.comfy import DENOISER
from shira_core.mask import Shape
from shira_core.names import UNET, detect


def extract(
    tuned: Any, base: Any, density: float, progress: Progress, **header: Any
) -> tuple[Adapter, Energy]:
    """Return the float32 adapter that brings `base` near to `tuned`, patches of both included.

    density: share of all entries that is kept, the largest changes.
    Raises InvalidValue for models of different architectures, or equal ones.
    """
    models = _Models(tuned.get_key_patches(DENOISER), base.get_key_patches(DENOISER))
    shapes = models.shapes()
    weights, energy = select(Deltas(shapes, models.difference), Choice(density), progress)
    if not weights:
        raise InvalidValue("the two models are the same: there is nothing to save")
    return Adapter(Header(architecture=detect(shapes), density=density, **header), weights), energy


@dataclass(frozen=True)
class _Models:
    """The weights of two models with their patches, by the host's names."""

    tuned: dict[str, Any]
    base: dict[str, Any]

    def shapes(self) -> dict[str, Shape]:
        """Return the shapes of all floating weights by names in a checkpoint."""
        own, other = ({k: each[0][0].shape for k, each in m.items()} for m in self._both)
        if own != other:
            raise InvalidValue(
                "the two models have different weights: take two of one architecture"
            )
        return {
            UNET + key.removeprefix(DENOISER): tuple(shape)
            for key, shape in own.items()
            if shape and self.base[key][0][0].dtype.is_floating_point
        }

    def difference(self, name: str) -> Tensor:
        """Return the change of one weight, float32."""
        key = DENOISER + name.removeprefix(UNET)
        new, old = (effective(patches[key], key) for patches in self._both)
        return new.sub_(old)

    @property
    def _both(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.tuned, self.base


def effective(patches: Any, key: str) -> Tensor:
    """Return a weight with its patches, float32 on the CPU, as the host would compute it."""
    (weight, convert), *rest = patches
    cpu = torch.device("cpu")
    copied = comfy.model_management.cast_to_device(weight, cpu, torch.float32, copy=True)
    found: Tensor = comfy.lora.calculate_weight(rest, convert(copied, inplace=True), key)
    return found

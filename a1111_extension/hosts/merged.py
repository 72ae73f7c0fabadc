"""Entries that are on for a part of a sampling run, in Forge and reForge.

Their loaders merge patches into weights before a run, and take seconds for it. Within the run the
weights are ordinary tensors: single entries are written there in place, on top of what is merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from shira_core import entries as cells
from shira_core.errors import InvalidValue

from ..patcher import Written
from ..places import Place, places
from ..stack import Stack


@dataclass
class WrittenOnMerged(Written):
    """What is written into one weight that belongs to a host's loader.

    A host that needs memory in the middle of a run may put its own copy of the weight there. What
    we have written is gone then, and nothing is to be given back.
    """

    _held: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._held = self.plan.original

    def write(self, factors: Sequence[float]) -> None:
        if not self._is_there():
            self.plan = self.plan.bind(self.place.weight)
        super().write(factors)

    def back(self) -> None:
        if self._is_there():
            super().back()

    def _put(self, values: Tensor, wide: Tensor | None) -> None:
        if not self.place.weight.is_cuda and torch.cuda.is_initialized():
            torch.cuda.synchronize()  # a copy to the GPU may be on its way
        super()._put(values, wide)
        self._held = values

    def _is_there(self) -> bool:
        weight = self.place.weight
        now = cells.read(weight, self.plan.positions.to(weight.device)).view(torch.uint8)
        return torch.equal(now, self._held.to(weight.device).view(torch.uint8))


def check_editable(denoiser: nn.Module, stack: Stack) -> None:
    """Raise InvalidValue for a weight of the stack, by its host's name, that has no plain entries.

    Every weight of the stack is one of the denoiser's.
    """
    found = places(denoiser)
    for name in {name for each in stack for name in each.entry.adapter.weights}:
        if _is_scaled(found[name]):
            raise InvalidValue(
                f"{name} is kept scaled, and cannot be changed in a run: leave start and stop out"
            )
        cells.check_layout(name, found[name].weight)


def _is_scaled(place: Place) -> bool:
    """Say whether a module has numbers that its weight is multiplied with."""
    module = place.module
    return hasattr(module, "set_weight") or getattr(module, "scale_weight", None) is not None

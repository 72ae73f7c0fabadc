"""The drafts of the last stack on a model: a new alpha or order of pictures reads no file again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .adapter import Adapter
from .plan import Draft, draft, read


@dataclass(frozen=True)
class _Kept:
    adapters: tuple[Adapter, ...]
    device: torch.device
    draft: Draft

    def addend(self, adapter: Adapter, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Return positions and values of an adapter's delta if they are on the device."""
        places = [i for i, each in enumerate(self.adapters) if each is adapter]
        return self.draft.addend(places[0]) if places and self.device == device else None


class Drafts:
    """Keeps the drafts of one stack; the next one reads only the files that are new in it."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}

    def of(
        self, adapters: Sequence[Adapter], devices: Mapping[str, torch.device]
    ) -> dict[str, Draft]:
        """Return the draft of each weight, its entries on that weight's device.

        adapters: of the stack; the parts of a draft have their indices as sources.
        devices: by weight, each a weight of one of the adapters at least.
        Raises FileInvalid; then the drafts of the stack before are kept.
        """
        wanted = tuple(adapters)
        self._kept = {name: self._next(name, wanted, device) for name, device in devices.items()}
        return {name: kept.draft for name, kept in self._kept.items()}

    def _next(self, name: str, adapters: tuple[Adapter, ...], device: torch.device) -> _Kept:
        known = self._kept.get(name)
        if known and known.device == device and _identical(known.adapters, adapters):
            return known
        addends = {
            index: (known and known.addend(each, device)) or read(each, name, device)
            for index, each in enumerate(adapters)
            if name in each.weights
        }
        return _Kept(adapters, device, draft(name, addends))


def _identical(first: Sequence[Adapter], second: Sequence[Adapter]) -> bool:
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))

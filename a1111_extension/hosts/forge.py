"""Forge: its loader merges patches by their kind, and anew when their names change."""

from __future__ import annotations

from itertools import count
from typing import Any

from backend.patcher import lora
from torch import Tensor

from shira_core.share import Share

from ..stack import Stack
from .patched import Patched, Shares

KIND = "shira"
_NUMBERS = count()


class Forge(Patched):
    """A stack is one more file of patches, with a name that no other stack has had."""

    name = "Forge"

    def install(self) -> None:
        super().install()
        lora.extra_weight_calculators[KIND] = _calculate

    def _without(self, patcher: Any) -> Any:
        holder = _holder(patcher)
        kept = {name: patches for name, patches in holder.lora_patches.items() if not _ours(name)}
        if len(kept) == len(holder.lora_patches):
            return patcher
        clone = patcher.clone()
        _holder(clone).lora_patches = kept
        return clone

    def _put(self, patcher: Any, shares: Shares, stack: Stack) -> None:
        patches = {key: (KIND, share) for key, share in shares.items()}
        patcher.add_patches(filename=f"{KIND} {next(_NUMBERS)}", patches=patches)


def _calculate(weight: Tensor, strength: float, share: Share) -> Tensor:
    return share.add(weight, strength)


def _holder(patcher: Any) -> Any:
    """Return what holds the patches: a text encoder has a patcher of its own."""
    return getattr(patcher, "patcher", patcher)


def _ours(identifier: tuple[str, ...]) -> bool:
    return identifier[0].startswith(f"{KIND} ")


HOST = Forge()

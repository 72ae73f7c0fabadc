"""Forge: its loader merges patches by their kind, and anew when their names change."""

from __future__ import annotations

from itertools import count
from typing import Any

from backend.patcher import lora
from torch import Tensor

from shira_core.share import Share

from .patched import Patched, Shares, holder

KIND = "shira"
_NUMBERS = count()


class Forge(Patched):
    """A stack is one more file of patches, with a name that no other stack has had."""

    def install(self) -> None:
        super().install()
        lora.extra_weight_calculators[KIND] = _calculate

    def _without(self, patcher: Any) -> Any:
        worn = holder(patcher).lora_patches
        kept = {name: patches for name, patches in worn.items() if not _ours(name)}
        if len(kept) == len(worn):
            return patcher
        clone = patcher.clone()
        holder(clone).lora_patches = kept
        return clone

    def _put(self, patcher: Any, shares: Shares) -> None:
        patches = {key: (KIND, share) for key, share in shares.items()}
        patcher.add_patches(filename=f"{KIND} {next(_NUMBERS)}", patches=patches)


def _calculate(weight: Tensor, strength: float, share: Share) -> Tensor:
    return share.add(weight, strength)


def _ours(identifier: tuple[str, ...]) -> bool:
    return identifier[0].startswith(f"{KIND} ")


HOST = Forge()

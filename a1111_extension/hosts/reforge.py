"""reForge: its patchers are ComfyUI's, with weight adapters as patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ldm_patched.modules.weight_adapter.base import WeightAdapterBase
from torch import Tensor

from shira_core.share import Share

from .patched import Patched, Shares, holder


class ShiraAdapter(WeightAdapterBase):
    """A share as a weight adapter."""

    name = "shira"

    def __init__(self, loaded_keys: set[str], weights: tuple[Share]) -> None:
        self.loaded_keys, self.weights = loaded_keys, weights

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Callable[[Tensor], Tensor] | None,
        intermediate_dtype: Any = None,
        original_weight: Any = None,
    ) -> Tensor:
        """Add the share to a weight, which is the host's own copy, and return it."""
        return self.weights[0].add(weight, strength)


class ReForge(Patched):
    """A stack is one patch on each weight."""

    def _without(self, patcher: Any) -> Any:
        patches = holder(patcher).patches
        if not any(_is_ours(each) for found in patches.values() for each in found):
            return patcher
        clone = patcher.clone()
        kept = {key: [e for e in found if not _is_ours(e)] for key, found in patches.items()}
        holder(clone).patches = {key: found for key, found in kept.items() if found}
        clone.add_patches({})  # gives the clone a name of its own, so that it is loaded anew
        return clone

    def _put(self, patcher: Any, shares: Shares) -> None:
        patcher.add_patches({key: ShiraAdapter({key}, (share,)) for key, share in shares.items()})


def _is_ours(patch: Any) -> bool:
    return isinstance(patch[1], ShiraAdapter)


HOST = ReForge()

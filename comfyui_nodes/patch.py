"""A stack as ComfyUI's weight patches: what it adds to one weight, in every mode of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor

from shira_core import entries as cells
from shira_core.errors import ShapeMismatch
from shira_core.plan import Entry
from shira_core.share import Share

Patch = tuple[
    float, Any, float, Any, Any
]  # strength, what, strength of the model, offset, function


class ShiraPatch(WeightAdapterBase):
    """A share as a weight adapter of ComfyUI.

    weights: (share,). It is no tensor, because hosts move and cast tensors that they find there,
    and positions must stay integers.
    """

    name = "shira"

    def __init__(self, loaded_keys: set[str], weights: tuple[Share]) -> None:
        self.loaded_keys, self.weights = loaded_keys, weights

    @property
    def share(self) -> Share:
        return self.weights[0]

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
        """Add the share to a weight, which is the host's own copy, and return it.

        Raises ShapeMismatch, FileInvalid.
        """
        share = self.share
        self._check(weight, key)
        if cells.is_dense(weight) and _leaves_alone(function, weight.new_zeros(1)):
            return share.add(weight, strength)
        places, added = share.total(weight, strength)
        whole = added.new_zeros(weight.numel()).index_copy_(0, places, added).view(weight.shape)
        weight += (function(whole) if function else whole).to(weight.dtype)
        return weight

    def calculate_shape(self, key: str) -> None:
        """Later hosts ask whether a patch changes a weight's shape: never."""

    def _check(self, weight: Tensor, key: str) -> None:
        entry = self.share.entries[0]
        wanted = tuple(entry.adapter.weights.shape(self.share.name))
        if tuple(weight.shape) != wanted:
            raise ShapeMismatch(
                f"{key} is {tuple(weight.shape)} in the model and {wanted} in the adapter: the "
                "model was changed after SHiRA was applied, or is quantised in a way that cannot "
                "be patched"
            )


def _leaves_alone(function: Callable[[Tensor], Tensor] | None, sample: Tensor) -> bool:
    """Tell whether a host's function returns what it is given."""
    return function is None or function(sample) is sample


def shares(names: Mapping[str, tuple[str, Sequence[Entry]]]) -> dict[str, Share]:
    """Return the share of each weight of the host that changes at all.

    names: by the host's name, the name in the adapters and the entries that have it.
    """
    found = {key: Share(name, tuple(entries)) for key, (name, entries) in names.items()}
    return {key: share for key, share in found.items() if any(share.alphas)}


def alone(patches: Sequence[Patch]) -> Share | None:
    """Return the share if a weight's patches are one of ours and nothing else."""
    return last(patches) if len(patches) == 1 else None


def last(patches: Sequence[Patch]) -> Share | None:
    """Return the share if the last patch of a weight is one of ours, as we added it."""
    if not patches:
        return None
    strength, what, of_model, offset, function = patches[-1]
    plain = strength == 1.0 and of_model == 1.0 and offset is None and function is None
    return what.share if plain and isinstance(what, ShiraPatch) else None


def ours(patches: Mapping[str, Sequence[Patch]]) -> Iterable[str]:
    """Return the weights that any of our patches changes."""
    return [
        key
        for key, found in patches.items()
        if any(isinstance(patch[1], ShiraPatch) for patch in found)
    ]

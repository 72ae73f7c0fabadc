"""A run of sparse fine-tuning, as the loop that trains sees it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..adapter import Adapter, Header, MemoryWeights
from ..entries import finite
from ..errors import InvalidValue, ShapeMismatch
from ..mask import Mask, SparseDelta
from .site import Site
from .vector import Vector

Names = Callable[[str], "str | Sequence[str]"]


@dataclass(frozen=True)
class Choice:
    """How the entries were chosen, for the adapter's header."""

    mask: str
    density: float | None
    seed: int | None
    dora: bool


class Run:
    """Handle of a `finetune` context.

    The weights follow the flat vector: they are rewritten before a forward pass of the module or
    of a trained layer, before `state_dict()` of the module, and by `update()`, whenever the vector
    may have changed.
    """

    def __init__(self, vector: Vector, names: Names, choice: Choice) -> None:
        self._vector, self._names, self._choice = vector, names, choice

    def parameters(self) -> list[nn.Parameter]:
        """Return [the flat float32 vector]: all deltas, then (DoRA) all magnitudes' growth."""
        return [self._vector.flat]

    @property
    def masks(self) -> dict[str, Mask]:
        """The mask of each trained weight, by its name in the module."""
        return {site.name: site.mask for site in self._vector.sites}

    @property
    def entries(self) -> int:
        """Number of trained entries in all weights."""
        return sum(site.count for site in self._vector.sites)

    def update(self) -> None:
        """Make every weight hold round(W + delta) of the vector as it is now.

        A CUDA graph that replays whole steps has to hold this call, too: a replay goes unseen.
        """
        self._vector.update()

    def reduce_gradients(self, over: Any = None) -> None:
        """Average the gradient over all processes; call it before clipping and optimizer.step().

        over: a torch process group, None for the default one, or an accelerate Accelerator. Leave
        the module itself out of DDP: this vector is all that has to be sent.
        """
        total = self._vector.gradient()
        if hasattr(over, "reduce") and hasattr(over, "num_processes"):
            total.copy_(over.reduce(total, reduction="mean"))
            return
        torch.distributed.all_reduce(total, group=over)
        total.div_(torch.distributed.get_world_size(over))

    def adapter(
        self, base: str = "", trigger: str = "", architecture: str = "unknown", **header: Any
    ) -> Adapter:
        """Return the trained adapter, with its own copies of all tensors, on the CPU.

        header: other fields of `Header` (title, license, training, ...).
        Raises InvalidValue when the training diverged.
        """
        fields = {**self._described(), "base": base, "architecture": architecture, **header}
        if trigger:
            fields.setdefault("triggers", (trigger,))
        if self._choice.dora:
            fields["training"] = {"dora": True, **fields.get("training", {})}
        unknown = sorted(set(fields) - set(Header.__dataclass_fields__))
        if unknown:
            raise InvalidValue(f"{unknown[0]!r} is no field of the header: see shira_core.Header")
        return Adapter(Header(**fields), self._weights())

    def state_dict(self) -> dict[str, Tensor]:
        """Return what an exact resume needs: the vector, and a digest of how it is laid out."""
        return {"values": self._vector.flat.detach().clone(), "digest": self._digest()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict()` of a run with the same masks; moves the weights."""
        missing = {"values", "digest"} - set(state)
        if missing:
            raise InvalidValue(f"this is no state of a run: it has no {min(missing)!r}")
        if not torch.equal(state["digest"].cpu(), self._digest()):
            raise InvalidValue(
                "the state is of a run with other masks: use the same model, layers, mask, "
                "density, seed and shard"
            )
        flat = self._vector.flat
        if state["values"].shape != flat.shape:
            raise ShapeMismatch("the state's vector has another length: it is damaged")
        with torch.no_grad():
            flat.copy_(state["values"])
        self.update()

    def _weights(self) -> MemoryWeights:
        weights = MemoryWeights()
        for site in self._vector.sites:
            for name in _listed(self._names(site.name)):
                if name in weights:
                    raise InvalidValue(f"names= gives {name!r} to two weights: keep them apart")
                weights[name] = self._sparse(site)
        return weights

    def _sparse(self, site: Site) -> SparseDelta:
        values = self._vector.delta(site).cpu()
        if not finite(values):
            raise InvalidValue(
                f"the delta of {site.name} holds NaN or is too large for "
                f"{self._vector.values_dtype}: the training diverged: lower the learning rate"
            )
        positions = site.positions.cpu().to(torch.int64, copy=True)
        mask = Mask(tuple(site.weight.shape), positions, site.struct)
        return SparseDelta(mask, values.clone())

    def _described(self) -> dict[str, Any]:
        choice = self._choice
        total = sum(site.weight.numel() for site in self._vector.sites)
        density = self.entries / total if choice.density is None else choice.density
        return {"mask": choice.mask, "density": density, "seed": choice.seed}

    def _digest(self) -> Tensor:
        """Return the SHA-256 of names, shapes and positions, uint8 (32,)."""
        digest = hashlib.sha256(f"{self._choice.dora} {self._vector.flat.numel()}".encode())
        for site in self._vector.sites:
            digest.update(f"\n{site.name} {tuple(site.weight.shape)} {site.count}\n".encode())
            digest.update(site.positions.cpu().numpy().astype("<i8", copy=False).data)
        return torch.from_numpy(np.frombuffer(digest.digest(), dtype=np.uint8).copy())


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)

"""A run of sparse fine-tuning: the flat vector, and the weights that follow it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..adapter import Adapter, Header, MemoryWeights
from ..errors import InvalidValue, ShapeMismatch
from ..mask import Mask, SparseDelta
from .site import Site

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

    def __init__(
        self,
        sites: Sequence[Site],
        size: int,
        values_dtype: torch.dtype,
        names: Names,
        choice: Choice,
    ) -> None:
        device = sites[0].base.device
        self._sites = tuple(sites)
        self._flat = nn.Parameter(torch.zeros(size, dtype=torch.float32, device=device))
        self._values_dtype, self._names, self._choice = values_dtype, names, choice
        self._written = self._flat._version
        self._gathered = False
        self._open = True

    def parameters(self) -> list[nn.Parameter]:
        """Return [the flat float32 vector]: all deltas, then (DoRA) all magnitudes' growth."""
        return [self._flat]

    @property
    def masks(self) -> dict[str, Mask]:
        """The mask of each trained weight, by its name in the module."""
        return {site.name: site.mask for site in self._sites}

    @property
    def entries(self) -> int:
        """Number of trained entries in all weights."""
        return sum(site.mask.count for site in self._sites)

    def update(self) -> None:
        """Make every weight hold round(W + delta) of the vector as it is now."""
        if self._open:
            self._write(counted=self._flat._version != self._written)

    def reduce_gradients(self, over: Any = None) -> None:
        """Average the gradient over all processes; call it before clipping and optimizer.step().

        over: a torch process group, None for the default one, or an accelerate Accelerator. Leave
        the module itself out of DDP: this vector is all that has to be sent.
        """
        total = self._gradient()
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
        unknown = sorted(set(fields) - set(Header.__dataclass_fields__))
        if unknown:
            raise InvalidValue(f"{unknown[0]!r} is no field of the header: see shira_core.Header")
        weights = MemoryWeights()
        for site in self._sites:
            for name in _listed(self._names(site.name)):
                if name in weights:
                    raise InvalidValue(f"names= gives {name!r} to two weights: keep them apart")
                weights[name] = self._sparse(site)
        return Adapter(Header(**fields), weights)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what an exact resume needs: the vector, and a digest of how it is laid out."""
        return {"values": self._flat.detach().clone(), "digest": self._digest()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict()` of a run with the same masks; moves the weights."""
        missing = {"values", "digest"} - set(state)
        if missing:
            raise InvalidValue(f"this is no state of a run: it has no {sorted(missing)[0]!r}")
        if not torch.equal(state["digest"].cpu(), self._digest()):
            raise InvalidValue(
                "the state is of a run with other masks: use the same model, layers, mask, "
                "density, seed and shard"
            )
        if state["values"].shape != self._flat.shape:
            raise ShapeMismatch("the state's vector has another length: it is damaged")
        with torch.no_grad():
            self._flat.copy_(state["values"])
        self.update()

    def _follow(self) -> None:
        """Write the weights when the vector has changed for certain (a trained layer's forward)."""
        if self._flat._version != self._written:
            self._write(counted=True)

    def _follow_all(self) -> None:
        """Write the weights when the vector may have changed (the module's forward).

        An optimizer that works on raw memory or `.data` changes the vector unseen, but never
        without a gradient. Where nothing is known to have changed, autograd is not told.
        """
        if self._gathered or self._flat._version != self._written:
            self.update()

    @torch.no_grad()
    def _write(self, counted: bool) -> None:
        flat = self._flat.detach()
        for site in self._sites:
            site.write(site.delta(flat, self._values_dtype), counted=counted)
        self._written, self._gathered = self._flat._version, False

    @torch.no_grad()
    def _gather(self, site: Site, grad: Tensor) -> None:
        """Add the gradient of a weight's entries to that of the vector."""
        site.add_gradient(self._flat.detach(), self._gradient(), grad)
        self._gathered = True

    def _gradient(self) -> Tensor:
        if self._flat.grad is None:
            self._flat.grad = torch.zeros_like(self._flat)
        return self._flat.grad

    def _close(self, keep: bool) -> None:
        if keep:
            self.update()
        self._open = False
        if not keep:
            with torch.no_grad():
                for site in self._sites:
                    site.restore()

    def _sparse(self, site: Site) -> SparseDelta:
        values = site.delta(self._flat.detach(), self._values_dtype).cpu()
        if not torch.isfinite(values).all():
            raise InvalidValue(
                f"the delta of {site.name} holds NaN or is too large for {self._values_dtype}: "
                "the training diverged: lower the learning rate"
            )
        mask = Mask(site.mask.shape, site.mask.positions.cpu().clone(), site.mask.struct)
        return SparseDelta(mask, values.clone())

    def _described(self) -> dict[str, Any]:
        choice = self._choice
        total = sum(math.prod(site.mask.shape) for site in self._sites)
        density = self.entries / total if choice.density is None else choice.density
        fields: dict[str, Any] = {"mask": choice.mask, "density": density, "seed": choice.seed}
        return fields | ({"training": {"dora": True}} if choice.dora else {})

    def _digest(self) -> Tensor:
        """Return the SHA-256 of names, shapes and positions, uint8 (32,)."""
        digest = hashlib.sha256(f"{self._choice.dora} {self._flat.numel()}".encode())
        for site in self._sites:
            digest.update(f"\n{site.name} {tuple(site.mask.shape)} {site.mask.count}\n".encode())
            digest.update(site.mask.positions.cpu().numpy().astype("<i8", copy=False).data)
        return torch.from_numpy(np.frombuffer(digest.digest(), dtype=np.uint8).copy())


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)

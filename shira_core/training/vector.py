"""The flat vector that an optimizer moves, and the weights that follow it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .site import Site


class Vector:
    """All deltas of a run as one float32 parameter, then (DoRA) all magnitudes' growth.

    The weights follow it: they hold round(W + round(delta)) of the vector whenever a forward pass
    or a `state_dict()` may look at them. values_dtype: of the adapter, that deltas are rounded to.
    """

    def __init__(self, sites: Sequence[Site], size: int, values_dtype: torch.dtype) -> None:
        device = sites[0].base.device
        self.sites = tuple(sites)
        self.flat = nn.Parameter(torch.zeros(size, dtype=torch.float32, device=device))
        self.values_dtype = values_dtype
        self._written = self.flat._version
        self._gathered = False
        self._open = True

    def delta(self, site: Site) -> Tensor:
        """Return the rounded delta of a weight's entries as the vector is now."""
        return site.delta(self.flat.detach(), self.values_dtype)

    def update(self) -> None:
        """Write the weights."""
        self._write(counted=self.flat._version != self._written)

    def follow(self) -> None:
        """Write the weights when the vector has changed for certain (a trained layer's forward)."""
        if self.flat._version != self._written:
            self._write(counted=True)

    def follow_all(self) -> None:
        """Write the weights when the vector may have changed (the module's forward).

        An optimizer that works on raw memory or `.data` changes the vector unseen, but never
        without a gradient. Where nothing is known to have changed, autograd is not told.
        """
        if self._gathered or self.flat._version != self._written:
            self.update()

    @torch.no_grad()
    def gather(self, site: Site, grad: Tensor) -> None:
        """Add the gradient of a weight's entries, (entries,), to that of the vector."""
        site.add_gradient(self.flat.detach(), self.gradient(), grad)
        self._gathered = True

    def gradient(self) -> Tensor:
        """Return the vector's gradient, zeros where there was none."""
        if self.flat.grad is None:
            self.flat.grad = torch.zeros_like(self.flat)
        return self.flat.grad

    def close(self, keep: bool) -> None:
        """Leave the weights as trained, or restore them; they follow no more."""
        if keep:
            self.update()
        self._open = False
        if not keep:
            with torch.no_grad():
                for site in self.sites:
                    site.restore()

    @torch.no_grad()
    def _write(self, counted: bool) -> None:
        if not self._open:  # asked by the hooks of a copy of the module that outlived the run
            return
        for site in self.sites:
            site.write(self.delta(site), counted=counted)
        self._written, self._gathered = self.flat._version, False

"""The flat vector that an optimizer moves, and the weights that follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor, nn

from .site import Site

STRETCH = 1 << 22  # entries: 32 MiB on the way, and few launches


@dataclass(frozen=True)
class Stretch:
    """Neighbouring weights of one device and dtype, whose values are computed together.

    Few launches for small weights, and about STRETCH entries at most, so that little memory is
    needed besides.

    base: (entries,) their own values, end to end; the sites' are views of it.
    """

    sites: tuple[Site, ...]
    base: Tensor

    def write(self, delta: Tensor, counted: bool) -> None:
        """Put round(W + delta) into the weights: what applying the adapter at alpha 1 gives."""
        moved = delta.to(_wide_dtype(self.base), copy=True).add_(self.base).to(self.base.dtype)
        parts = moved.split([site.count for site in self.sites])
        for site, part in zip(self.sites, parts, strict=True):
            site.write(part, counted=counted)


def wide(base: Tensor) -> Tensor:
    """Return the values in the dtype that sums are computed in."""
    return base.to(_wide_dtype(base))


def _wide_dtype(base: Tensor) -> torch.dtype:
    return torch.float64 if base.dtype == torch.float64 else torch.float32


def _alike(site: Site) -> tuple[torch.device, torch.dtype, int]:
    return site.base.device, site.base.dtype, site.values.start // STRETCH


def _stretches(sites: Sequence[Site]) -> tuple[Stretch, ...]:
    stretches = []
    for _, group in groupby(sites, key=_alike):
        members = tuple(group)
        base = torch.cat([site.base for site in members])
        parts = base.split([site.count for site in members])
        views = (replace(site, base=part) for site, part in zip(members, parts, strict=True))
        stretches.append(Stretch(tuple(views), base))
    return tuple(stretches)


class Vector:
    """All deltas of a run as one float32 parameter, then (DoRA) all magnitudes' growth.

    The weights follow it: they hold round(W + round(delta)) of the vector whenever a forward pass
    or a `state_dict()` may look at them. values_dtype: of the adapter, that deltas are rounded to.
    """

    def __init__(self, sites: Sequence[Site], size: int, values_dtype: torch.dtype) -> None:
        device = sites[0].base.device
        self._stretches = _stretches(sites)
        self.sites = tuple(site for stretch in self._stretches for site in stretch.sites)
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
        site.add_gradient(self.flat, self.gradient(), grad)
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
                    site.write(site.base)

    def _delta(self, stretch: Stretch) -> Tensor:
        """Return the rounded deltas of neighbouring weights, end to end."""
        first, last = stretch.sites[0], stretch.sites[-1]
        if first.fixed is not None:
            return torch.cat([self.delta(site) for site in stretch.sites])
        part = self.flat.detach()[first.values.start : last.values.stop]
        return part.to(stretch.base.device).to(self.values_dtype)

    @torch.no_grad()
    def _write(self, counted: bool) -> None:
        if not self._open:  # asked by the hooks of a copy of the module that outlived the run
            return
        for stretch in self._stretches:
            stretch.write(self._delta(stretch), counted)
        self._written, self._gathered = self.flat._version, False

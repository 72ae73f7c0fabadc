"""What a stack does to one weight, for hosts that merge patches into weights themselves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from . import entries as cells
from .plan import Draft, Entry, alphas, draft, read_all


@dataclass(frozen=True)
class Share:
    """The adapters that change one weight.

    name: of the weight in the adapters. entries: those that have it, with their alphas.
    """

    name: str
    entries: tuple[Entry, ...]

    @property
    def alphas(self) -> list[float]:
        """The alpha of every entry for this weight."""
        return alphas(self.entries, self.name)

    @cached_property
    def draft(self) -> Draft:
        """The entries, read once: a host with little memory asks for them in every step."""
        return draft(self.name, read_all(self.entries, self.name))

    def total(self, weight: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Return positions (n,) in a weight and float32 (n,) to add there, on its device."""
        places = self.draft.positions.to(weight.device)
        return places, self.draft.total(self.alphas).to(weight.device) * strength

    def add(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        """Add the share to a weight in place and return it; any dtype and dense layout."""
        places, added = self.total(weight, strength)
        sums = cells.read(weight, places).to(added.dtype) + added
        cells.write(weight, places, sums.to(weight.dtype))
        return weight

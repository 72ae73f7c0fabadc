"""An adapter with fewer entries: the largest of another one."""

from __future__ import annotations

from dataclasses import replace

from ..adapter import Adapter, MemoryWeights
from ..errors import InvalidValue
from ..mask import SparseDelta
from .choice import Choice, Energy
from .provenance import converted
from .select import Deltas, select


def reduce(adapter: Adapter, choice: Choice) -> tuple[Adapter, Energy]:
    """Return the adapter of the largest entries, in their dtypes, and what they carry.

    choice: its density is a share of all positions of the weights, as in the header. Zeros are
    never kept. Raises InvalidValue where nothing is left.
    """
    shapes = {name: adapter.weights.shape(name) for name in adapter.weights}
    deltas = Deltas(shapes, lambda name: adapter.weights.read(name).dense())
    chosen, energy = select(deltas, choice)
    if not chosen:
        raise InvalidValue("all entries of the adapter are zero: there is nothing to keep")
    weights = MemoryWeights(
        {
            name: SparseDelta(delta.mask, delta.values.to(adapter.weights.read(name).values.dtype))
            for name, delta in chosen.items()
        }
    )
    line = f"{energy.total.density:.3%} of the positions, {energy.share:.2%} of the change"
    header = converted(adapter.header, line, density=energy.total.density)
    return replace(adapter, header=header, weights=weights), energy

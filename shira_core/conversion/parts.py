"""What of an adapter another format cannot hold."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from ..adapter import Adapter
from ..errors import InvalidValue
from ..mask import Shape
from .choice import Share
from .low_rank import energy


def left_out(adapter: Adapter, held: Collection[str], what: str, partial: bool) -> dict[str, Share]:
    """Return the changes that a format cannot hold, by the kind of weight that they are of.

    held: names of the adapter's weights that the format can hold. what: the format, as in
    "a LoRA". Raises InvalidValue where there are any, unless `partial`.
    """
    found: dict[str, Share] = {}
    names = [name for name in adapter.weights if name not in held]
    for name in names:
        kind, shape = _kind(adapter.weights.shape(name)), adapter.weights.shape(name)
        share = Share(cells=math.prod(shape), total=energy(adapter.weights.read(name)))
        found[kind] = found.get(kind, Share()) + share
    if found and not partial:
        raise InvalidValue(
            f"{what} cannot hold {len(names)} of the {len(adapter.weights)} weights, such as "
            f"{names[0]} ({', '.join(found)}; {_part(adapter, found):.1%} of the change): "
            "--partial (partial=True) leaves them out"
        )
    return found


def _kind(shape: Shape) -> str:
    if len(shape) == 1:
        return "biases and norms"
    return "embeddings and projections" if len(shape) == 2 else "convolutions"


def _part(adapter: Adapter, found: Mapping[str, Share]) -> float:
    """Return the share of the energy that is left out."""
    whole = sum(energy(adapter.weights.read(name)) for name in adapter.weights)
    return sum(share.total for share in found.values()) / whole if whole else 0.0

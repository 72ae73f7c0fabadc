"""Masks: which entries of a weight are trained. A new mask is one file and one line in REGISTRY.

mask = masks.build("wm", weight, density=0.02)
mask = masks.build("rand", weight, rank=16, seed=7, layer="unet.mid.to_q", shard=1)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..errors import InvalidValue
from ..mask import Mask
from .grad import grad
from .pooled import pooled
from .rand import rand
from .request import Request, budget
from .snip import snip
from .struct import struct
from .wm import wm

__all__ = ["REGISTRY", "build", "names", "pooled"]

REGISTRY: Mapping[str, Callable[..., Mask]] = {
    "struct": struct,
    "rand": rand,
    "wm": wm,
    "grad": grad,
    "snip": snip,
}


def names() -> tuple[str, ...]:
    """Return the names of all masks."""
    return tuple(REGISTRY)


def build(
    name: str,
    weight: Tensor,
    *,
    density: float | None = None,
    rank: int | None = None,
    seed: int = 0,
    layer: str = "",
    gradient: Tensor | None = None,
    shard: int = 0,
    **options: Any,
) -> Mask:
    """Return the mask of one Linear or Conv weight (SHiRA, section 3.1).

    weight: (outputs, inputs, *taps); unstructured masks take any shape. Positions lie on its
    device.
    density or rank: the budget, see `request.budget`.
    seed, layer: reproducible choice of random masks; layer is also named in messages.
    gradient: for "grad" and "snip", of the weight's shape.
    shard: k for the k-th slice of entries; slices of one budget never overlap.
    options: of the mask: "struct" takes axis="columns" | "rows" | "both" and diagonal=True.
    Raises InvalidValue and ShapeMismatch.
    """
    function = _find(name, options)
    if not isinstance(shard, int) or shard < 0:
        raise InvalidValue(f"shard {shard!r} is not a whole number from 0 up")
    count = budget(tuple(weight.shape), density, rank)
    return function(Request(weight, count, seed, layer, gradient, shard), **options)


def _find(name: str, options: Mapping[str, Any]) -> Callable[..., Mask]:
    if name not in REGISTRY:
        raise InvalidValue(f"mask {name!r} is unknown: choose one of {', '.join(names())}")
    known = list(inspect.signature(REGISTRY[name]).parameters)[1:]
    for option in options:
        if option not in known:
            raise InvalidValue(
                f"mask {name!r} has no option {option!r}: it takes {', '.join(known) or 'none'}"
            )
    return REGISTRY[name]

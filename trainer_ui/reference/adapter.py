"""Adapters that were trained on the compact base, for the full-size checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from shira_core.adapter import Adapter, MemoryWeights
from shira_core.atomic import refuse_existing
from shira_core.check import check_fit

from .checkpoint import TITLE
from .compact import Compact
from .widening import widen_delta


def write_adapter(adapter: Adapter, base: Compact, out: Path, *, overwrite: bool = False) -> Path:
    """Write an adapter of the compact base, widened, atomically, and return the path."""
    refuse_existing(out, overwrite)
    return widen_adapter(adapter, base).save(out, overwrite=overwrite)


def widen_adapter(adapter: Adapter, base: Compact) -> Adapter:
    """Return an adapter of the compact base for its widened checkpoint, in memory.

    Added to the widened model at any alpha, it does what the adapter does to the compact one. At
    alpha 1 each float16 weight of the checkpoint is then, bit for bit, the widening of the compact
    weight + delta, rounded once. The exception are copies of queries: where their share makes
    weight or delta smaller than 2^-14, float16 has fewer digits, and they may be one rounding off.

    Every mask becomes an unstructured one: of a Struct mask's row only the columns that are read
    are widened, and its diagonal is none there. The density is that of the entries then.
    Raises WeightMissing and ShapeMismatch for an adapter of another model.
    """
    check_fit(adapter, base.shapes)
    weights = MemoryWeights()
    for name in adapter.weights:
        weights[name] = widen_delta(adapter.weights.read(name), base.rule(name))
    numel = sum(math.prod(delta.shape) for delta in weights.values())
    density = sum(delta.count for delta in weights.values()) / numel
    kept = replace(adapter.header, architecture="sd15", base=TITLE, base_sha256="")
    return Adapter(replace(kept, density=density), weights)

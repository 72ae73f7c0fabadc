"""Adapters that were trained on the compact base, for the full-size checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from shira_core.adapter import Adapter, MemoryWeights
from shira_core.atomic import refuse_existing
from shira_core.check import check_fit
from shira_core.mask import Mask, SparseDelta

from .checkpoint import TITLE
from .compact import Compact
from .widening import scaled, widen_entries


def write_adapter(adapter: Adapter, base: Compact, out: Path, *, overwrite: bool = False) -> Path:
    """Write an adapter of the compact base, widened, atomically, and return the path."""
    refuse_existing(out, overwrite)
    return widen_adapter(adapter, base).save(out, overwrite=overwrite)


def widen_adapter(adapter: Adapter, base: Compact) -> Adapter:
    """Return an adapter of the compact base for its widened checkpoint, in memory.

    Added to the widened model at any alpha, it does what the adapter does to the compact one. With
    float16 weights on both sides (what `write_checkpoint` writes), at alpha 1 each full weight is,
    bit for bit, the widening of compact weight + delta, rounded once; at other alphas the same but
    for query projections, which are scaled and may be one rounding off.

    Every mask becomes an unstructured one: of a Struct mask's row only the columns that are read
    are widened, and its diagonal is none there. The density falls to that of the entries.
    Raises WeightMissing and ShapeMismatch for an adapter of another model.
    """
    check_fit(adapter, base.shapes)
    weights = MemoryWeights()
    for name in adapter.weights:
        weights[name] = _widened(adapter.weights.read(name), name, base)
    share = sum(d.count for d in weights.values()) / sum(
        math.prod(d.shape) for d in weights.values()
    )
    header = replace(
        adapter.header, architecture="sd15", base=TITLE, base_sha256="", density=round(share, 6)
    )
    return Adapter(header, weights)


def _widened(delta: SparseDelta, name: str, base: Compact) -> SparseDelta:
    rule = base.rule(name)
    positions, copied = widen_entries(delta.positions, rule)
    values = delta.values
    if rule.factor != 1:
        values = _scaled_delta(delta, base.read(name), rule.factor)
    return SparseDelta(Mask(rule.full, positions), values[copied])


def _scaled_delta(delta: SparseDelta, weight: Tensor, factor: float) -> Tensor:
    """Return what leads from the scaled weight to the scaled sum, both rounded to float16.

    float32 (entries,): the difference of two float16 numbers does not fit float16.
    """
    before = weight.reshape(-1)[delta.positions].float()
    after = before + delta.values.float()
    old, new = (scaled(values, factor, torch.float16).float() for values in (before, after))
    return new - old

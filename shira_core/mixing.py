"""Make one adapter of several: delta = sum(alpha_i * delta_i) (SHiRA, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from .adapter import Adapter, MemoryWeights
from .entries import finite
from .errors import ArchitectureMismatch, InvalidValue, ShapeMismatch
from .header import Header
from .mask import Mask, SparseDelta
from .names import label
from .plan import Draft, Entries, Entry, alphas, as_stack, draft, read_all

Mode = Callable[[Draft, Sequence[float]], Tensor]


def _sum(parts: Draft, alphas: Sequence[float]) -> Tensor:
    """Return the plain sum that a stack would apply, float32 (entries,)."""
    return parts.total(alphas)


MODES: Mapping[str, Mode] = {"sum": _sum}


def mix(
    stack: Entries, mode: str = "sum", *, dtype: torch.dtype | None = None, title: str = ""
) -> Adapter:
    """Return one adapter, in memory, that changes a model as the whole stack does.

    stack: (adapter, alpha) pairs. mode: a key of MODES. dtype: of the values; by default the
    widest of the adapters'. Raises InvalidValue, ShapeMismatch, ArchitectureMismatch.
    """
    if mode not in MODES:
        raise InvalidValue(f"mode {mode!r} is unknown: choose one of {', '.join(MODES)}")
    wanted = as_stack(stack)
    if not wanted:
        raise InvalidValue("there is nothing to mix: give at least one adapter")
    _check(wanted)
    names = dict.fromkeys(name for entry in wanted for name in entry.adapter.weights)
    weights = MemoryWeights({name: _mixed(wanted, name, MODES[mode], dtype) for name in names})
    return Adapter(_header(wanted, mode, weights, title), weights)


def _mixed(stack: Sequence[Entry], name: str, mode: Mode, dtype: torch.dtype | None) -> SparseDelta:
    parts = draft(name, read_all(stack, name))
    kept = [part.values.dtype for part in parts.parts]
    widest = kept[0] if len(set(kept)) == 1 else torch.float32
    values = mode(parts, alphas(stack, name)).to(dtype or widest)
    shape = next(e.adapter.weights.shape(name) for e in stack if name in e.adapter.weights)
    if not finite(values):
        raise InvalidValue(f"{name} leaves the range of {values.dtype}: lower the alphas")
    return SparseDelta(Mask(tuple(shape), parts.positions), values)


def _check(stack: Sequence[Entry]) -> None:
    """Raise where two adapters belong to different models."""
    shapes: dict[str, tuple[int, ...]] = {}
    known = _known(stack)
    if len(known) > 1:
        kinds = " and ".join(sorted(map(label, known)))
        raise ArchitectureMismatch(f"adapters for {kinds} cannot be mixed: use one kind")
    for entry in stack:
        for name in entry.adapter.weights:
            shape = tuple(entry.adapter.weights.shape(name))
            if shapes.setdefault(name, shape) != shape:
                raise ShapeMismatch(
                    f"{name} is {shapes[name]} in one adapter and {shape} in another: they were "
                    "trained for different models; mix adapters for one model"
                )


def _known(stack: Sequence[Entry]) -> set[str]:
    """Return the architectures that the adapters name."""
    return {entry.adapter.header.architecture for entry in stack} - {"unknown", ""}


def _header(stack: Sequence[Entry], mode: str, weights: MemoryWeights, title: str) -> Header:
    headers = [entry.adapter.header for entry in stack]
    cells = sum(math.prod(delta.shape) for delta in weights.values())
    return Header(
        architecture=_common(list(_known(stack)), "unknown"),
        base=_common([h.base for h in headers], ""),
        base_sha256=_common([h.base_sha256 for h in headers], ""),
        prediction_type=_common([h.prediction_type for h in headers], ""),
        mask="mix",
        density=sum(delta.count for delta in weights.values()) / max(1, cells),
        triggers=tuple(dict.fromkeys(word for h in headers for word in h.triggers)),
        title=title or " + ".join(h.title for h in headers if h.title),
        training={"mixed": [_provenance(entry) for entry in stack], "mode": mode},
    )


def _provenance(entry: Entry) -> dict[str, object]:
    header, alpha = entry.adapter.header, entry.alpha
    named = {"title": header.title, "file": entry.adapter.path.name if entry.adapter.path else ""}
    parts = {"components": dict(alpha.components), "blocks": dict(alpha.blocks)}
    return {"alpha": alpha.value} | {k: v for k, v in (named | parts).items() if v}


def _common(values: Sequence[str], otherwise: str) -> str:
    """Return the value that all share, else `otherwise`."""
    return values[0] if len(set(values)) == 1 else otherwise

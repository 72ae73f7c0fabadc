"""Make one adapter of several; `modes` says how common entries join (SHiRA, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .adapter import Adapter, MemoryWeights
from .alpha import Alpha
from .entries import finite
from .errors import ArchitectureMismatch, InvalidValue, ShapeMismatch
from .header import Header
from .mask import Mask, SparseDelta
from .modes import MODES
from .names import label
from .plan import Draft, Entries, Entry, alphas, as_stack, draft, read_all

_LEVELS = 10  # of how an adapter was made: with those around it, less than a file may have


def mix(
    stack: Entries, mode: str = "sum", *, dtype: torch.dtype | None = None, title: str = ""
) -> Adapter:
    """Return one adapter, in memory, made of a whole stack.

    stack: (adapter, alpha) pairs; alpha 0 leaves an adapter out. mode: a key of MODES; "sum" is
    what `apply` does with the stack. dtype: of the values; by default the widest of the adapters'.
    Every value is computed in float32 and rounded once.
    Raises InvalidValue, ShapeMismatch, ArchitectureMismatch, FileInvalid.
    """
    wanted = as_stack(stack)
    _check(wanted)
    return _mix(_Request(wanted, mode, dtype, title), lambda name: _draft(wanted, name))


class Mixer:
    """Adapters that are mixed again and again: their entries are read and joined once.

    So a new alpha or mode costs the arithmetic only, and all results have the same positions, which
    a stack that goes from one to the next recognises. Holds up to 18 bytes per float16 entry.
    Raises ShapeMismatch, ArchitectureMismatch, InvalidValue, FileInvalid.
    """

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        stack = as_stack([(adapter, 1.0) for adapter in adapters])
        _check(stack)
        self._adapters = tuple(adapters)
        self._drafts = {name: _draft(stack, name) for name in _names(stack)}

    def mix(
        self,
        alphas: Sequence[Alpha | float],
        mode: str = "sum",
        *,
        dtype: torch.dtype | None = None,
        title: str = "",
    ) -> Adapter:
        """Return what `mix` returns for the adapters with these alphas, one for each."""
        if len(alphas) != len(self._adapters):
            raise InvalidValue(
                f"{len(alphas)} alphas for {len(self._adapters)} adapters: give one for each"
            )
        stack = as_stack(list(zip(self._adapters, alphas, strict=True)))
        return _mix(_Request(stack, mode, dtype, title), self._drafts.__getitem__)


@dataclass(frozen=True)
class _Request:
    """What is mixed, and how; as in `mix`."""

    stack: Sequence[Entry]
    mode: str
    dtype: torch.dtype | None
    title: str


def _mix(request: _Request, draft_of: Callable[[str], Draft]) -> Adapter:
    """Join the drafts of all weights; they are asked for one by one."""
    if request.mode not in MODES:
        raise InvalidValue(f"mode {request.mode!r} is unknown: choose one of {', '.join(MODES)}")
    weights = MemoryWeights(
        {name: _joined(request, draft_of(name)) for name in _names(request.stack)}
    )
    return Adapter(_header(request, weights), weights)


def _joined(request: _Request, parts: Draft) -> SparseDelta:
    name = parts.name
    kept = {part.values.dtype for part in parts.parts}
    dtype = request.dtype or (kept.pop() if len(kept) == 1 else torch.float32)
    values = MODES[request.mode].join(parts, alphas(request.stack, name)).to(dtype)
    if not finite(values):
        raise InvalidValue(f"{name} leaves the range of {dtype}: lower the alphas")
    first = next(e.adapter for e in request.stack if name in e.adapter.weights)
    return SparseDelta(Mask(tuple(first.weights.shape(name)), parts.positions), values)


def _draft(stack: Sequence[Entry], name: str) -> Draft:
    return draft(name, read_all(stack, name))


def _names(stack: Sequence[Entry]) -> list[str]:
    """Return the weights that any adapter changes."""
    return list(dict.fromkeys(name for entry in stack for name in entry.adapter.weights))


def _check(stack: Sequence[Entry]) -> None:
    """Raise where there is no adapter, or two belong to different models."""
    if not stack:
        raise InvalidValue("there is nothing to mix: give at least one adapter")
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


def _header(request: _Request, weights: MemoryWeights) -> Header:
    stack = request.stack
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
        license=_common([h.license for h in headers], ""),
        title=request.title or " + ".join(h.title for h in headers if h.title),
        training={"mixed": [_provenance(entry) for entry in stack], "mode": request.mode},
    )


def _provenance(entry: Entry) -> dict[str, object]:
    """Return what one adapter of a mix is, and how it was made: as a mix too, perhaps."""
    header, alpha = entry.adapter.header, entry.alpha
    facts = {
        "title": header.title,
        "file": entry.adapter.path.name if entry.adapter.path else "",
        "author": header.author,
        "license": header.license,
        "components": dict(alpha.components),
        "blocks": dict(alpha.blocks),
        "training": _shallow(header.training, _LEVELS),
    }
    return {"alpha": alpha.value} | {key: value for key, value in facts.items() if value}


def _shallow(value: Any, levels: int) -> Any:
    """Return a JSON value without objects and lists that lie deeper than `levels`."""
    if isinstance(value, Mapping):
        kept = ((key, each) for key, each in value.items() if levels > 1 or not _nests(each))
        return {key: _shallow(each, levels - 1) for key, each in kept}
    if isinstance(value, (list, tuple)):
        return [_shallow(each, levels - 1) for each in value if levels > 1 or not _nests(each)]
    return value


def _nests(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple))


def _common(values: Sequence[str], otherwise: str) -> str:
    """Return the value that all share, else `otherwise`."""
    return values[0] if len(set(values)) == 1 else otherwise

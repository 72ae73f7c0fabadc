"""PEFT's SHiRA from an adapter: one folder for each model that it changes.

PEFT gives every module r * (outputs + inputs) entries with one r for all. So r is the smallest that
holds each weight, and the rest of a module's entries are zeros at its first unchanged positions.
What PEFT has no place for (header, number of entries, dtype) is kept in the metadata, by which
`from_peft` gives the same adapter back.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .. import keymaps
from ..adapter import Adapter
from ..errors import ArchitectureMismatch, InvalidValue
from ..header import FORMAT_VERSION, Header, to_json
from ..mask import Shape, SparseDelta
from ..names import UNET, component
from ..translate import Source, translated
from .choice import Energy, Share
from .low_rank import energy
from .parts import left_out
from .peft_folder import Entries, PeftShira
from .rename import original

RECORD = "shira.adapter"
PARTS = {"unet": "unet", "te1": "text_encoder", "te2": "text_encoder_2"}
_WEIGHT = ".weight"
_WRAPPED = "text_model."  # of transformers' CLIPTextModelWithProjection


@dataclass(frozen=True)
class Kept:
    """What PEFT does not keep of a module: its first `entries` are the adapter's, in this dtype."""

    shape: Shape
    entries: int
    dtype: str = "float32"
    struct: bool = False


def to_peft(
    adapter: Adapter, folder: Path, *, partial: bool = False
) -> tuple[dict[Path, PeftShira], Energy]:
    """Return what `peft_folder.write` writes, and what it holds of the adapter's energy.

    A folder below `folder` for each part, named as diffusers does; `folder` itself where there is
    one part. Values are float32. partial: leave out what PEFT cannot hold (all but Linear weights).
    Raises InvalidValue, ArchitectureMismatch.
    """
    known = original(adapter)
    sources = _sources(known)
    held = {source.name for source in sources.values()}
    rest = left_out(known, held, "PEFT's SHiRA", partial)
    modules = translated(known, sources, apart=tuple(set(known.weights) - held))
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for name in filter(modules.weights.count, modules.weights):
        part, _, module = name.removesuffix(_WEIGHT).partition(".")
        start = _WRAPPED if part == "te2" and module.startswith("encoder.") else ""
        parts[PARTS.get(part, "")][start + module] = name
    if not parts:
        raise InvalidValue("the adapter changes nothing that PEFT's SHiRA could hold")
    places = {folder / part if len(parts) > 1 else folder: own for part, own in parts.items()}
    shares = {name: _share(known.weights.read(name)) for name in known.weights if name in held}
    return {p: _peft(modules, own, sources) for p, own in places.items()}, Energy(shares, rest)


def _share(delta: SparseDelta) -> Share:
    """Return the share of a weight of which all is kept."""
    whole = energy(delta)
    return Share(delta.count, math.prod(delta.shape), whole, whole)


def _sources(adapter: Adapter) -> dict[str, Source]:
    """Return where each Linear module lies in the checkpoint, as "component.module.weight"."""
    shapes = {name: adapter.weights.shape(name) for name in adapter.weights}
    kind = adapter.header.architecture
    found = keymaps.targets(shapes, kind) if kind != "unknown" else {}
    if not found and any(n.startswith(UNET) or component(n) != "unet" for n in shapes):
        raise ArchitectureMismatch(
            f"no map to diffusers' names, which PEFT needs, fits the adapter (architecture {kind})"
        )
    found = found or {f"model.{name}": Source(name) for name in shapes}
    return {
        name: source
        for name, source in found.items()
        if name.endswith(_WEIGHT) and len(shapes[source.name]) == 2 and "embeddings." not in name
    }


def _peft(modules: Adapter, names: Mapping[str, str], sources: Mapping[str, Source]) -> PeftShira:
    """Return one part of an adapter. names: of its weights by module."""
    deltas = {module: modules.weights.read(name) for module, name in names.items()}
    r = max(-(-delta.count // sum(delta.shape)) for delta in deltas.values())
    weights = {m: _record(delta, sources[names[m]]) for m, delta in deltas.items()}
    own = {"version": FORMAT_VERSION, **to_json(modules.header)}
    record = {"header": own, "extra": dict(modules.header.extra), "weights": weights}
    return PeftShira(
        _config(modules.header, r, sorted(deltas)),
        {module: _padded(module, delta, r) for module, delta in sorted(deltas.items())},
        {"format": "pt", RECORD: json.dumps(record, ensure_ascii=False)},
    )


def _record(delta: SparseDelta, source: Source) -> dict[str, Any]:
    kept = Kept(
        tuple(delta.shape),
        delta.count,
        str(delta.values.dtype).removeprefix("torch."),
        delta.mask.struct is not None,
    )
    return {**asdict(source), **asdict(kept)}


def _config(header: Header, r: int, modules: list[str]) -> dict[str, Any]:
    """Return what PEFT's `ShiraConfig` reads."""
    return {
        "peft_type": "SHIRA",
        "base_model_name_or_path": header.base or None,
        "inference_mode": True,
        "r": r,
        "mask_type": "random",
        "random_seed": header.seed if header.mask == "rand" else None,
        "target_modules": modules,
    }


def _padded(module: str, delta: SparseDelta, r: int) -> Entries:
    """Return the entries, then zeros up to PEFT's number of them."""
    outputs, inputs = delta.shape
    missing = r * (outputs + inputs) - delta.count
    if r * (outputs + inputs) > outputs * inputs:
        raise InvalidValue(
            f"PEFT gives all modules one r, the fullest needs r = {r}, and that is more than "
            f"{module} of {outputs}x{inputs} has: lower the density (--density) first"
        )
    free = (~delta.mask.dense().view(-1)).nonzero().view(-1)[:missing]
    positions = torch.cat([delta.positions, free])
    rows = torch.div(positions, inputs, rounding_mode="floor")
    values = torch.cat([delta.values.float(), torch.zeros(missing)])
    return Entries(rows, positions - rows * inputs, values)

"""An adapter from a folder of PEFT's SHiRA."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import keymaps
from ..adapter import Adapter, MemoryWeights
from ..container import strict_json
from ..errors import FileInvalid, InvalidValue, ShapeMismatch, WeightMissing
from ..header import Header, from_json
from ..mask import Mask, Shape, SparseDelta
from ..names import detect
from ..struct import described
from ..translate import Source, to_checkpoint
from . import peft_folder
from .model import Model, open_model
from .peft_folder import CONFIG, WEIGHTS, Entries, PeftShira
from .provenance import converted
from .rename import originals
from .to_peft import PARTS, RECORD, Kept

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class _Part:
    """One folder, and the component that its place tells, or "" where it is the only one."""

    path: Path
    component: str
    shira: PeftShira


@dataclass(frozen=True)
class _Place:
    """Where a module's weight lies in the checkpoint, and what PEFT does not say of it."""

    source: Source
    kept: Kept


@dataclass(frozen=True)
class _Known:
    """What is needed besides a folder: a header, and the place of each module."""

    header: Header
    places: Mapping[str, _Place]


def from_peft(folder: Path, base: Path | None = None) -> Adapter:
    """Return the adapter under checkpoint names, in memory.

    base: the model, which tells shapes and names; only what `to_peft` wrote, and PEFT has not
    written again, does without and comes back as it was. Other values are float32.
    Raises FileInvalid, InvalidValue, WeightMissing, ShapeMismatch.
    """
    parts = [_Part(path, name, peft_folder.read(path)) for path, name in _folders(folder).items()]
    if not parts:
        raise FileInvalid(f"{folder} has no {CONFIG}: give the folder that PEFT saved")
    recorded = [known for part in parts if (known := _recorded(part))]
    if len(recorded) < len(parts):
        if base is None:
            raise InvalidValue(f"{folder} does not say the shapes of weights: give --base CKPT")
        model = open_model(base)
        recorded = [_told(part, model) for part in parts]
    weights, sources = MemoryWeights(), {}
    for part, known in zip(parts, recorded, strict=True):
        for module, place in known.places.items():
            name = f"{part.path.name}/{module}"
            weights[name], sources[name] = _delta(part, module, place.kept), place.source
    found = to_checkpoint(Adapter(recorded[0].header, weights), sources)
    return replace(found, header=_noted(found, folder))


def _folders(path: Path) -> dict[Path, str]:
    """Return the folders with adapters, and the component that each is called after."""
    if os.path.isfile(path / CONFIG):
        return {path: ""}
    return {path / n: c for c, n in PARTS.items() if os.path.isfile(path / n / CONFIG)}


def _noted(adapter: Adapter, folder: Path) -> Header:
    header = converted(adapter.header, f"from PEFT's SHiRA {folder.name}")
    if header.density is None:
        cells = sum(math.prod(adapter.weights.shape(name)) for name in adapter.weights)
        header = replace(header, density=adapter.entries / cells)
    return header


def _recorded(part: _Part) -> _Known | None:
    """Return what `to_peft` has kept in a folder; raises FileInvalid."""
    text = part.shira.metadata.get(RECORD)
    if text is None:
        return None
    try:
        values = strict_json(text)
        header = from_json(values["header"], _texts(values["extra"]))
        weights = values["weights"]
        places = {module: _place(weights[module]) for module in part.shira.modules}
    except (ValueError, KeyError, TypeError, AttributeError, FileInvalid):
        raise FileInvalid(
            f"{part.path / WEIGHTS}: its metadata {RECORD!r} is damaged: get it again"
        ) from None
    return _Known(header, places)


def _place(values: Mapping[str, Any]) -> _Place:
    """Return a place from JSON; raises KeyError, TypeError, ValueError."""
    outputs, inputs = map(_number, values["shape"])
    part, parts = _number(values["part"]), _number(values["parts"])
    if not (outputs and inputs and part < parts and isinstance(values["name"], str)):
        raise ValueError
    source = Source(values["name"], part, parts, values["transposed"] is True)
    kept = Kept((outputs, inputs), _number(values["entries"]), values["dtype"], values["struct"])
    if kept.dtype not in _DTYPES:
        raise ValueError
    return _Place(source, kept)


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError
    return value


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    if not all(isinstance(value, str) for value in values.values()):
        raise ValueError
    return dict(values)


def _told(part: _Part, model: Model) -> _Known:
    """Return what a base tells; raises WeightMissing, ShapeMismatch."""
    own = model.shapes
    shapes = {source.name: own[name] for name, source in originals(own).items()}
    config = part.shira.config
    seed = config.get("random_seed")
    header = Header(
        architecture=detect(shapes),
        base=model.path.stem,
        base_sha256=model.sha256(),
        mask="rand" if config.get("mask_type") == "random" else "",
        seed=seed if type(seed) is int and seed >= 0 else None,
        title=part.path.name,
        training={"r": config["r"]},
    )
    return _Known(header, _places(part, shapes, model.path))


def _places(part: _Part, shapes: Mapping[str, Shape], base: Path) -> dict[str, _Place]:
    """Return the place of each module: of its own name in the base, or else by the key maps."""
    modules = part.shira.modules
    names = {module: f"{module.removeprefix('text_model.')}.weight" for module in modules}
    if all(f"{module}.weight" in shapes for module in names):
        ways = [{module: Source(f"{module}.weight") for module in names}]
    else:
        known = keymaps.targets(shapes)
        components = [part.component] if part.component else list(PARTS)
        found = [{m: known.get(f"{c}.{name}") for m, name in names.items()} for c in components]
        ways = [{m: s for m, s in way.items() if s} for way in found if all(way.values())]
    if not ways:
        raise WeightMissing(
            f"{base} has not all modules of {part.path}, such as {next(iter(names))}: give the "
            "model that it was trained on"
        )
    fitting = [way for way in ways if all(_fits(part, m, shapes, way[m]) for m in names)]
    if not fitting:
        raise ShapeMismatch(
            f"the modules of {part.path} have other sizes in {base}: give the model that it was "
            "trained on"
        )
    return {
        module: _Place(source, Kept(_shape(shapes, source), len(modules[module].values)))
        for module, source in fitting[0].items()
    }


def _fits(part: _Part, module: str, shapes: Mapping[str, Shape], source: Source) -> bool:
    shape, r = _shape(shapes, source), part.shira.config["r"]
    return len(shape) == 2 and len(part.shira.modules[module].values) == r * sum(shape)


def _shape(shapes: Mapping[str, Shape], source: Source) -> Shape:
    """Return the shape of a module's weight."""
    rows, *rest = shapes[source.name]
    shape = (rows // source.parts, *rest)
    return shape[::-1] if source.transposed else shape


def _delta(part: _Part, module: str, kept: Kept) -> SparseDelta:
    """Return the entries of a module as the adapter holds them; raises FileInvalid."""
    found = part.shira.modules[module]
    if not _sound(found, kept, part.shira.config["r"]):
        raise FileInvalid(f"{part.path / WEIGHTS}: {module} does not fit its shape: get it again")
    positions = (found.rows * kept.shape[1] + found.columns)[: kept.entries]
    positions, order = torch.sort(positions)
    if bool((positions[1:] == positions[:-1]).any()):
        raise FileInvalid(f"{part.path / WEIGHTS}: {module} has an entry twice: get it again")
    mask = Mask(kept.shape, positions)
    values = found.values[: kept.entries][order].to(_DTYPES[kept.dtype])
    return SparseDelta(described(mask) if kept.struct else mask, values)


def _sound(found: Entries, kept: Kept, r: int) -> bool:
    outputs, inputs = kept.shape
    return (
        0 < kept.entries <= len(found.values) == r * (outputs + inputs)
        and int(found.rows.max()) < outputs
        and int(found.columns.max()) < inputs
    )

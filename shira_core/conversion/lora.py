"""An adapter from a LoRA, of any family, and the model that it was made for."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..adapter import Adapter
from ..dense import NUMBERS
from ..errors import FileInvalid, InvalidValue, MissingDependency, ShapeMismatch, WeightMissing
from ..facts import THUMBNAIL
from ..header import Header
from ..mask import Shape
from ..names import detect, label
from ..translate import Source
from .choice import Choice, Energy
from .lora_change import change
from .lora_names import Layers, split, telling
from .lora_scaling import read_scalings
from .model import File, Model, open_model
from .select import Deltas, Progress, select

_MAX_THUMBNAIL = 1 << 19  # characters; larger ones leave too little of the header


def is_lora(names: Collection[str]) -> bool:
    """Tell whether these are the names of a LoRA's tensors, of any family."""
    return any(map(telling, names))


def from_lora(
    lora: Path,
    base: Path,
    choice: Choice,
    *,
    scale: float = 1.0,
    progress: Progress | None = None,
) -> tuple[Adapter, Energy]:
    """Return the adapter, float32, of the largest entries of a LoRA's change, and what they carry.

    lora: a safetensors file; PEFT's adapter_config.json is read beside it. base: the checkpoint, or
    diffusers folder, that it was made for; weights are read where a family needs them. scale:
    strength of the LoRA.
    Raises FileInvalid, WeightMissing, ShapeMismatch, MissingDependency and InvalidValue.
    """
    if not math.isfinite(scale):
        raise InvalidValue(f"scale {scale!r} is no number: give one such as 0.8")
    source = _Lora(File(lora), open_model(base))
    weights, found = select(
        Deltas(source.shapes, lambda name: source.read(name) * scale), choice, progress
    )
    if not weights:
        raise InvalidValue(f"{lora} changes nothing: its products are all zero")
    return Adapter(_header(source, choice, found, scale), weights), found


@dataclass(frozen=True)
class _Place:
    """One layer of a LoRA, and the weight or the part of one that it changes.

    tensors: names in the file by part.
    """

    layer: str
    tensors: Mapping[str, str]
    source: Source


class _Lora:
    """The changes of a LoRA by the weights of a model. Raises FileInvalid, WeightMissing."""

    def __init__(self, file: File, model: Model) -> None:
        self.file, self.model = file, model
        self._scalings = read_scalings(file)
        self._places: dict[str, dict[int, _Place]] = defaultdict(dict)
        found = list(_places(file, Layers(model.shapes), model))
        for place in found:
            parts = self._places[place.source.name]
            if parts.setdefault(place.source.part, place) is not place:
                raise FileInvalid(
                    f"{file.path}: {parts[place.source.part].layer} and {place.layer} change the "
                    "same weight: get another file"
                )
        self.shapes = {name: model.shapes[name] for name in self._places}

    def read(self, name: str) -> Tensor:
        """Return the change of one weight, float32 of its shape."""
        dense = torch.zeros(self.shapes[name])
        for place in self._places[name].values():
            part = _part(dense, place.source)
            part.copy_(self._change(place, tuple(part.shape)))
        return dense

    def _change(self, place: _Place, shape: Shape) -> Tensor:
        parts = {part: self.file.read(name, NUMBERS) for part, name in place.tensors.items()}
        parts = {part: tensor.float() for part, tensor in parts.items()}
        scaling = self._scalings(place.layer, parts)
        try:
            return change(parts, scaling, shape, lambda: self._base(place.source))
        except (ShapeMismatch, MissingDependency) as error:
            raise type(error)(f"{self.file.path}: {place.layer}: {error}") from None
        except (ValueError, RuntimeError, ArithmeticError, LookupError, TypeError) as error:
            # Of torch and of the package, about parts whose shapes do not go together.
            raise FileInvalid(
                f"{self.file.path}: the parts of {place.layer} do not fit together ({error}): "
                "get it again"
            ) from error

    def _base(self, source: Source) -> Tensor:
        return _part(self.model.read(source.name).float(), source)


def _places(file: File, layers: Layers, model: Model) -> Iterator[_Place]:
    """Yield every layer of a LoRA with its weight; raises FileInvalid, WeightMissing."""
    missing = []
    for layer, tensors in _layers(file).items():
        for leaf, own in _leaves(tensors).items():
            source = layers.find(layer, leaf)
            if source is None:
                missing.append(layer)
            else:
                yield _Place(layer, own, source)
    if missing:
        raise WeightMissing(
            f"{file.path}: {model.path} ({label(detect(model.shapes))}) has no weight, or more "
            f"than one, for {len(missing)} layers, the first being {missing[0]}: give the base "
            "that it was made for"
        )


def _layers(file: File) -> dict[str, dict[str, str]]:
    """Return the tensors of each layer by part."""
    layers: dict[str, dict[str, str]] = defaultdict(dict)
    for name in file.container.tensors:
        layer, part = split(name)
        if not part or part in layers[layer]:
            raise FileInvalid(
                f"{file.path}: its tensor {name!r:.120} belongs to no kind of LoRA that is known "
                "here, or is there twice: it cannot be converted"
            )
        layers[layer][part] = name
    for layer, tensors in layers.items():
        if not _complete(tensors):
            raise FileInvalid(f"{file.path}: {layer} has only {', '.join(tensors)}: get it again")
    return layers


def _complete(tensors: Mapping[str, str]) -> bool:
    """Tell whether a layer has what its family needs, as far as names tell."""
    if "up" in tensors or "down" in tensors:
        return {"up", "down"} <= tensors.keys()
    return bool(tensors.keys() - {"alpha", "mid", "magnitude", "dora_scale", "weight", "rescale"})


def _leaves(tensors: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the parts of a layer's weight and of its bias, which is given as its change."""
    weight = {part: name for part, name in tensors.items() if part != "bias"}
    found = {"weight": weight} if weight else {}
    return found | ({"bias": {"diff": tensors["bias"]}} if "bias" in tensors else {})


def _part(dense: Tensor, source: Source) -> Tensor:
    """Return the view of a checkpoint weight that a source names, as the target has it."""
    part = dense.chunk(source.parts)[source.part]
    return part.t() if source.transposed else part


def _header(source: _Lora, choice: Choice, found: Energy, scale: float) -> Header:
    metadata = source.file.container.metadata
    thumbnail = metadata.get(THUMBNAIL, "")
    return Header(
        architecture=detect(source.model.shapes),
        base=source.model.path.stem,
        base_sha256=source.model.sha256(),
        prediction_type=source.model.prediction_type,
        mask="magnitude",
        density=found.total.density if choice.density is None else choice.density,
        triggers=_words(metadata.get("modelspec.trigger_phrase", "")),
        tags=_words(metadata.get("modelspec.tags", "")),
        title=metadata.get("modelspec.title", source.file.path.stem),
        author=metadata.get("modelspec.author", ""),
        description=metadata.get("modelspec.description", ""),
        license=metadata.get("modelspec.license", ""),
        training={
            "converted_from": source.file.path.name,
            "scale": scale,
            "scope": choice.scope,
            "energy": round(found.share, 6),
        },
        extra={THUMBNAIL: thumbnail} if 0 < len(thumbnail) < _MAX_THUMBNAIL else {},
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())

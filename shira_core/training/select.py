"""Which weights of a module are trained."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from ..errors import InvalidValue

Layers = Callable[[str, nn.Module], bool] | Iterable[str]
LAYER_TYPES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Chosen:
    """One weight to train. users: the layers that hold it, more than one when it is tied."""

    name: str
    weight: nn.Parameter
    users: tuple[nn.Module, ...]


def choose(module: nn.Module, layers: Layers | None = None) -> list[Chosen]:
    """Return the Linear and Conv weights to train, each once, in the module's order.

    GPT-2's `Conv1D` of transformers is a Linear whose weight lies transposed, (inputs, outputs).

    layers: None for all; a predicate of (layer name, layer); or patterns that match the layer's or
    the weight's whole name, `*` and `?` being wildcards: "mid.to_q", "*.attn2.*".
    Raises InvalidValue when nothing, or nothing for one of the patterns, is found.
    """
    wanted, candidates = _predicate(module, layers), _candidates(module)
    users: dict[nn.Parameter, list[nn.Module]] = {}
    for _, layer, weight in candidates:
        users.setdefault(weight, []).append(layer)
    found: dict[nn.Parameter, Chosen] = {}
    for name, layer, weight in candidates:
        if weight not in found and wanted(name, layer):
            found[weight] = Chosen(_weight_name(name), weight, tuple(users[weight]))
    if not found:
        raise InvalidValue("no Linear or Conv weight is chosen: check layers=")
    for chosen in found.values():
        _check(chosen)
    return list(found.values())


def _candidates(module: nn.Module) -> list[tuple[str, nn.Module, nn.Parameter]]:
    """Return name, layer and weight of the layers whose weight is an ordinary parameter."""
    return [
        (name, layer, weight)
        for name, layer in module.named_modules()
        if (isinstance(layer, LAYER_TYPES) or type(layer).__name__ == "Conv1D")
        and isinstance(weight := layer._parameters.get("weight"), nn.Parameter)
    ]


def _predicate(module: nn.Module, layers: Layers | None) -> Callable[[str, nn.Module], bool]:
    if layers is None:
        return lambda name, layer: True
    if callable(layers):
        return layers
    patterns = [layers] if isinstance(layers, str) else list(layers)
    names = [name for name, _, _ in _candidates(module)]
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in names):
            raise _nothing_matches(pattern, names)
    exact, wild = set(patterns), [p for p in patterns if set(p) & set("*?[")]
    return lambda name, layer: (
        name in exact or _weight_name(name) in exact or any(_matches(name, p) for p in wild)
    )


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(_weight_name(name), pattern)


def _nothing_matches(pattern: str, names: list[str]) -> InvalidValue:
    near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.0)
    hint = f" (the nearest is {near[0]!r})" if near else ""
    return InvalidValue(f"layers: {pattern!r} names no Linear or Conv layer{hint}")


def _weight_name(layer: str) -> str:
    return f"{layer}.weight" if layer else "weight"


def _check(chosen: Chosen) -> None:
    weight = chosen.weight
    if weight.is_meta:
        raise InvalidValue(f"{chosen.name} is on the meta device: load the model's weights first")
    if weight.dtype not in DTYPES:
        raise InvalidValue(
            f"{chosen.name} is {weight.dtype}, which cannot be trained: load the model as float32, "
            "bfloat16 or float16"
        )
    if weight.is_inference():
        raise InvalidValue(
            f"{chosen.name} was made under torch.inference_mode: load the model outside of it"
        )

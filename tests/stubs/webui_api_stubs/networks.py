"""The built-in Lora extension, as far as weights are concerned.

A module's forward pass brings its weights to the networks that are loaded: it copies them away
before the first change, starts from the copies whenever other networks are wanted, and remembers
which ones they hold. Loading a checkpoint into a module makes it forget its copies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)


@dataclass(frozen=True)
class Network:
    """Changes by name of module and of what they change: weight, bias, in_proj_weight, out."""

    name: str
    multiplier: float
    changes: dict[tuple[str, str], Tensor] = field(default_factory=dict, compare=False)

    def change(self, layer: str, part: str) -> Tensor | None:
        found = self.changes.get((layer, part))
        return None if found is None else found * self.multiplier


loaded_networks: list[Network] = []


def assign(model: nn.Module) -> None:
    """Give modules their names, and have them forget copies when a checkpoint is loaded."""
    for name, module in model.named_modules():
        if isinstance(module, CLASSES):
            module.network_layer_name = name  # type: ignore[assignment]
            module.register_load_state_dict_post_hook(forget)


def forget(module: Any, _: Any = None) -> None:
    module.network_current_names = ()
    module.network_weights_backup = None
    module.network_bias_backup = None


def forward(model: nn.Module) -> None:
    """Do what a forward pass through the whole model does to its weights."""
    inner = {each.out_proj for each in model.modules() if isinstance(each, nn.MultiheadAttention)}
    for module in model.modules():
        if isinstance(module, CLASSES) and module not in inner:
            with torch.no_grad():
                apply(module)


def apply(module: Any) -> None:
    current = getattr(module, "network_current_names", ())
    wanted = tuple((each.name, each.multiplier) for each in loaded_networks)
    if getattr(module, "network_weights_backup", None) is None and wanted:
        assert not current, "no copies and changed weights"
        module.network_weights_backup = _copied(module)
        bias = _bias_owner(module).bias
        module.network_bias_backup = None if bias is None else bias.to("cpu", copy=True)
    if current != wanted:
        _restore(module)
        for network in loaded_networks:
            _add(module, network)
        module.network_current_names = wanted


def _bias_owner(module: Any) -> Any:
    return module.out_proj if isinstance(module, nn.MultiheadAttention) else module


def _copied(module: Any) -> Any:
    if isinstance(module, nn.MultiheadAttention):
        whole = (module.in_proj_weight, module.out_proj.weight)
        return tuple(each.to("cpu", copy=True) for each in whole)
    return module.weight.to("cpu", copy=True)


def _restore(module: Any) -> None:
    weights = getattr(module, "network_weights_backup", None)
    if weights is None:
        return
    if isinstance(module, nn.MultiheadAttention):
        module.in_proj_weight.copy_(weights[0])
        module.out_proj.weight.copy_(weights[1])
    else:
        module.weight.copy_(weights)
    owner = _bias_owner(module)
    if module.network_bias_backup is None:
        owner.bias = None
    else:
        owner.bias.copy_(module.network_bias_backup)


def _add(module: Any, network: Network) -> None:
    layer = module.network_layer_name
    if isinstance(module, nn.MultiheadAttention):
        for tensor, part in (
            (module.in_proj_weight, "in_proj_weight"),
            (module.out_proj.weight, "out"),
        ):
            change = network.change(layer, part)
            if change is not None:
                tensor += change.to(tensor.dtype)
        return
    for part in ("weight", "bias"):
        change = network.change(layer, part)
        if change is None:
            continue
        own = getattr(module, part)
        if own is None:
            module.bias = nn.Parameter(change.to(module.weight.dtype), requires_grad=False)
            continue
        wide = getattr(module, f"fp16_{part}", None)
        start = own if wide is None else wide
        own.copy_((start.to(change.dtype) + change).to(own.dtype))

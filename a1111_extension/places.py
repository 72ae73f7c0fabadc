"""Where the weights of a checkpoint lie in AUTOMATIC1111's model, and their copies.

The built-in Lora extension copies a module's weights into `network_weights_backup` and
`network_bias_backup` before it changes them, says in `network_current_names` with what, and starts
from the copies when other networks are wanted. With 8-bit weights the WebUI may keep 16-bit ones
beside them, `fp16_weight` and `fp16_bias`, which Lora's changes are added to.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_WRAPPER = "wrapped"  # the WebUI puts text encoders and embeddings into modules of its own


@dataclass(frozen=True)
class Place:
    """One weight: `attribute` of `module`.

    keeper: the module that Lora's copies hang on; an attention's output belongs to the attention.
    """

    module: nn.Module
    attribute: str
    keeper: nn.Module

    @property
    def weight(self) -> Tensor:
        """The weight itself."""
        weight: Tensor = getattr(self.module, self.attribute)
        return weight

    @property
    def wide(self) -> Tensor | None:
        """The 16-bit weight that is kept beside one of 8 bits."""
        found: Tensor | None = getattr(self.module, f"fp16_{self.attribute}", None)
        return found

    @property
    def backup(self) -> Tensor | None:
        """Lora's copy of the weight."""
        for place, copy in _backups(self.keeper):
            if place == (self.module, self.attribute):
                return copy
        return None

    def without_lora(self) -> None:
        """Have the module hold Lora's copies, so that Lora applies its networks anew."""
        if not getattr(self.keeper, "network_current_names", ()):
            return
        for (module, attribute), copy in _backups(self.keeper):
            if copy is None:  # a bias that Lora has added
                setattr(module, attribute, None)
            else:
                with torch.no_grad():
                    getattr(module, attribute).copy_(copy)
        self.keeper.network_current_names = ()  # type: ignore[assignment]


def _backups(keeper: nn.Module) -> list[tuple[tuple[nn.Module, str], Tensor | None]]:
    """Return Lora's copies of a module's weights, each with where it belongs."""
    weights = getattr(keeper, "network_weights_backup", None)
    bias = getattr(keeper, "network_bias_backup", None)
    if weights is None:
        return []
    if isinstance(keeper, nn.MultiheadAttention):
        own, out = weights
        inner = keeper.out_proj
        found = [((keeper, "in_proj_weight"), own), ((inner, "weight"), out)]
        return [*found, ((inner, "bias"), bias)]
    return [((keeper, "weight"), weights), ((keeper, "bias"), bias)]


def places(model: nn.Module) -> dict[str, Place]:
    """Return the place of every weight of a model by its name in a checkpoint."""
    keepers: dict[nn.Module, nn.Module] = {}
    found = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.MultiheadAttention):
            keepers[module.out_proj] = module
        for name, _ in module.named_parameters(recurse=False):
            place = Place(module, name, keepers.get(module, module))
            found[plain(f"{path}.{name}")] = place
    return found


def plain(name: str) -> str:
    """Return a weight's name without the modules that a WebUI has put around others."""
    return ".".join(part for part in name.split(".") if part != _WRAPPER)

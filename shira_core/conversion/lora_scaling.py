"""How strong the layers of a LoRA are, where PEFT's settings say it instead of alphas in the file.

diffusers keeps the settings of its parts in the file's metadata ("unet.lora_alpha"), PEFT in a file
beside it (adapter_config.json).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..container import strict_json
from ..errors import FileInvalid
from .model import File

Scalings = Callable[[str, Mapping[str, Tensor]], float | None]
_METADATA, _BESIDE, _PEFT = "lora_adapter_metadata", "adapter_config.json", "base_model.model."
_PARTS = ("unet", "text_encoder", "text_encoder_2", "transformer")


def read_scalings(file: File) -> Scalings:
    """Return what gives a layer's scaling of its product: a number, or None for alpha / rank.

    It takes the layer's name and its parts. Raises FileInvalid for settings that are damaged.
    """
    settings = _settings(file)

    def scaling(layer: str, parts: Mapping[str, Tensor]) -> float | None:
        start = next((part for part in settings if layer.startswith(part)), None)
        if start is None or "alpha" in parts or "down" not in parts:
            return None
        return _scaling(settings[start], layer.removeprefix(start), parts["down"].shape[0])

    return scaling


def _settings(file: File) -> dict[str, dict[str, Any]]:
    """Return PEFT's settings by how the layers begin that they are for."""
    beside = file.path.parent / _BESIDE
    if beside.is_file() and all(name.startswith(_PEFT) for name in file.container.tensors):
        return {_PEFT: _read(str(beside), beside.read_text(encoding="utf-8", errors="replace"))}
    text = file.container.metadata.get(_METADATA)
    if not text:
        return {}
    every = _read(str(file.path), text)
    return {
        f"{part}.": {
            key[len(part) + 1 :]: v for key, v in every.items() if key.startswith(f"{part}.")
        }
        for part in _PARTS
        if f"{part}.lora_alpha" in every
    }


def _read(where: str, text: str) -> dict[str, Any]:
    try:
        found = strict_json(text)
    except ValueError as error:
        raise FileInvalid(f"{where}: its settings of PEFT are damaged ({error})") from None
    if not isinstance(found, dict):
        raise FileInvalid(f"{where}: its settings of PEFT are no JSON object: get it again")
    return found


def _scaling(settings: Mapping[str, Any], layer: str, rank: int) -> float | None:
    patterns = settings.get("alpha_pattern") or {}
    alpha = next(
        (patterns[p] for p in patterns if layer == p or layer.endswith(f".{p}")),
        settings.get("lora_alpha"),
    )
    if not isinstance(alpha, (int, float)) or not rank:
        return None
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)

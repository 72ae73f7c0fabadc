"""An adapter from a LoRA and the model that it was made for."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ..adapter import Adapter
from .choice import Choice, Energy


def is_lora(names: Collection[str]) -> bool:
    """Tell whether these are the names of a LoRA's tensors, of any family."""
    raise NotImplementedError


def from_lora(
    lora: Path, base: Path, choice: Choice, *, scale: float = 1.0
) -> tuple[Adapter, Energy]:
    """Return the adapter, float32, of the largest entries of a LoRA's change, and what they carry.

    lora: a safetensors file. base: the checkpoint, or diffusers folder, that it was made for; only
    names and shapes are read, and weights where a family needs them. scale: strength of the LoRA.
    Raises FileInvalid, WeightMissing, ShapeMismatch, MissingDependency and InvalidValue.
    """
    raise NotImplementedError

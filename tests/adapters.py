"""Adapters for tests: random entries on given shapes."""

from __future__ import annotations

from collections.abc import Mapping

import torch

import shira_core as shira
from shira_core.mask import Shape


def random_adapter(
    shapes: Mapping[str, Shape],
    seed: int,
    *,
    density: float = 0.1,
    mask: str = "rand",
    dtype: torch.dtype = torch.float16,
    scale: float = 1.0,
    **header: object,
) -> shira.Adapter:
    """Return an adapter with normal values on masks of our own."""
    generator = torch.Generator().manual_seed(seed)
    weights = shira.MemoryWeights()
    for name, shape in shapes.items():
        weight = torch.randn(shape, generator=generator)
        kind = "rand" if len(shape) < 2 else mask
        chosen = shira.masks.build(kind, weight, density=density, seed=seed, layer=name)
        values = torch.randn(chosen.count, generator=generator) * scale
        weights[name] = shira.SparseDelta(chosen, values.to(dtype))
    return shira.Adapter(shira.Header(**header), weights)  # type: ignore[arg-type]


def bits(tensor: torch.Tensor) -> bytes:
    """Return the exact content of a tensor in row-major order."""
    return tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()

"""From file to pipeline, in full size too: every weight is what dense arithmetic says."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import sd_modules as sd

from shira_core.adapter import Adapter, Header, MemoryWeights
from shira_core.integrations.diffusers import load_shira
from shira_core.mask import SparseDelta


def constant(name: str) -> float:
    """A number for each checkpoint weight that bfloat16 holds exactly."""
    return (zlib.crc32(name.encode()) % 101 - 50) / 32


def constant_pipeline(architecture: str, size: str, dtype: torch.dtype) -> Any:
    """A pipeline each of whose checkpoint weights has one constant in all its entries."""
    with torch.device("meta"):
        parts = {c: sd.module(architecture, c, size) for c in sd.PREFIXES[architecture]}
    for module in parts.values():
        module.to(dtype).to_empty(device="cpu")
    for component, own in sd.sources(architecture, parts).items():
        weights = parts[component].state_dict()
        for name, source in own.items():
            weights[name].fill_(constant(source.name))
    return sd.pipeline(architecture, parts)


def expected(
    architecture: str,
    component: str,
    module: nn.Module,
    deltas: Mapping[str, SparseDelta],
    alpha: float,
    dtype: torch.dtype,
) -> Iterator[tuple[str, Tensor]]:
    """Each weight by dense arithmetic on a checkpoint weight that diffusers converts."""

    def dense(name: str) -> Tensor:
        delta, base = deltas[name], constant(name)
        tensor = torch.full((math.prod(delta.shape),), base, dtype=dtype)
        tensor[delta.positions] = (base + alpha * delta.values.float()).to(dtype)
        return tensor.view(delta.shape)

    if component == "unet":  # diffusers needs all names at once, and only renames
        marks = {name: sd.meta(delta.shape) for name, delta in deltas.items()}
        name_of = {id(mark): name for name, mark in marks.items()}
        for target, mark in sd.official(architecture, component, module, marks).items():
            yield target, dense(name_of[id(mark)])
        return
    for name in deltas:
        own = {name: dense(name)}
        yield from sd.official(architecture, component, module, own).items()


@pytest.mark.parametrize(
    ("architecture", "size", "dtype"),
    [
        ("sd15", "tiny", torch.float32),
        ("sdxl", "tiny", torch.float16),
        ("sd15", "full", torch.bfloat16),
        ("sdxl", "full", torch.bfloat16),
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_file_to_pipeline_is_dense_arithmetic_on_the_checkpoint(
    tmp_path: Path, architecture: str, size: str, dtype: torch.dtype
) -> None:
    compact = (architecture, size) == ("sd15", "tiny")
    pipe = constant_pipeline(architecture, size, dtype)
    modules = sd.components(pipe)
    deltas = sd.random_deltas(architecture, modules, 100)
    header = Header(architecture=f"{architecture}-compact" if compact else architecture)
    path = Adapter(header, MemoryWeights(deltas)).save(tmp_path / "a.shira")
    handle = load_shira(pipe, path, alpha=0.75)
    for component, module in modules.items():
        weights, seen = sd.weights(module), set()
        for name, tensor in expected(architecture, component, module, deltas, 0.75, dtype):
            assert torch.equal(weights[name], tensor), name
            seen.add(name)
        assert seen == weights.keys()
    handle.remove()
    for component, own in sd.sources(architecture, modules).items():
        weights = modules[component].state_dict()
        for name, source in own.items():
            entries = weights[name].flatten()
            assert torch.equal(entries, torch.full_like(entries, constant(source.name))), name

"""A LoRA from an adapter: the closest one of a given rank, under kohya's names.

ComfyUI, the WebUIs and diffusers read these: SD1.x and SD2.x with diffusers' names of the UNet, all
other denoisers with the original ones; text encoders with transformers' names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .. import keymaps
from ..adapter import Adapter
from ..atomic import atomic_write, refuse_existing
from ..entries import finite
from ..errors import ArchitectureMismatch, InvalidValue
from ..header import Header, for_other_tools, to_json
from ..mask import SparseDelta
from ..names import UNET, component
from ..translate import Source, translated
from .choice import Energy, Share
from .low_rank import Factors, energy, factors, residual
from .parts import left_out
from .provenance import converted
from .rename import original

HEADER = "shira.header"
_DIFFUSERS_NAMES = ("sd15", "sd15-compact", "sd2")
_ENCODERS = {"te1": "lora_te_", "te2": "lora_te2_"}
_ENCODERS_XL = {**_ENCODERS, "te1": "lora_te1_"}
_LAYERS = "encoder.layers."  # what readers of LoRAs know of a text encoder


@dataclass(frozen=True)
class Lora:
    """Tensors of a LoRA by name, and metadata, ready to be written."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    def save(self, path: Path, *, overwrite: bool = False) -> Path:
        """Write a safetensors file atomically; raises FileExists, WriteFailed."""
        refuse_existing(path, overwrite)
        with atomic_write(path, overwrite) as temporary:
            save_file(dict(self.tensors), temporary, metadata=dict(self.metadata))
        return path


def to_lora(
    adapter: Adapter,
    rank: int,
    *,
    dtype: torch.dtype = torch.float16,
    partial: bool = False,
) -> tuple[Lora, Energy]:
    """Return the LoRA that is closest to an adapter, and what of its energy it carries.

    The best approximation of each weight in the sense of squares, as `dtype` rounds it; weights of
    a smaller rank get that. partial: leave out what a LoRA cannot hold (biases, norms, embeddings).
    Raises InvalidValue, ArchitectureMismatch.
    """
    if rank < 1:
        raise InvalidValue(f"rank {rank} is too small: give 1 or more, e.g. 64")
    known = original(adapter)
    sources = _sources(known)
    held = {source.name for source in sources.values()}
    rest = left_out(known, held, "a LoRA", partial)
    modules = translated(known, sources, apart=tuple(set(known.weights) - held))
    tensors: dict[str, Tensor] = {}
    shares: dict[str, Share] = {}
    for name in modules.weights:
        delta, whole = modules.weights.read(name), modules.weights.origin(name)
        found = factors(delta, rank).to(dtype)
        shares[whole] = shares.get(whole, Share()) + _share(delta, found)
        if found.rank:
            tensors |= _tensors(_kohya(name, adapter.header.architecture), delta, found, dtype)
    if not tensors:
        raise InvalidValue("the adapter changes nothing that a LoRA could hold")
    return Lora(tensors, _metadata(adapter.header, rank)), Energy(shares, rest)


def _sources(adapter: Adapter) -> dict[str, Source]:
    """Return where the modules that LoRAs know lie in the checkpoint, as "component.module"."""
    kind = adapter.header.architecture
    if kind == "unknown":
        raise ArchitectureMismatch(
            f"{adapter.path or 'the adapter'} does not say its architecture, on which a LoRA's "
            "names depend: give its base (--base) to a conversion to .shira first"
        )
    shapes = {name: adapter.weights.shape(name) for name in adapter.weights}
    found = keymaps.targets(shapes, kind)
    if kind not in _DIFFUSERS_NAMES:
        found = {name: source for name, source in found.items() if not name.startswith("unet.")}
        bare = (name for name in shapes if name.startswith(UNET))
        found |= {f"unet.{name.removeprefix(UNET)}": Source(name) for name in bare}
    return {
        name: source
        for name, source in found.items()
        if name.endswith(".weight")
        and len(shapes[source.name]) in (2, 4)
        and (component(source.name) == "unet" or _LAYERS in name)
    }


def _kohya(name: str, kind: str) -> str:
    """Return what kohya calls "component.module.weight"."""
    part, _, module = name.removesuffix(".weight").partition(".")
    if part == "unet":
        return "lora_unet_" + module.replace(".", "_")
    encoders = _ENCODERS if kind in _DIFFUSERS_NAMES else _ENCODERS_XL
    return f"{encoders[part]}text_model_{module.replace('.', '_')}"


def _tensors(
    name: str, delta: SparseDelta, found: Factors, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return the three tensors of a module; alpha is the rank, so that strength 1 is alpha 1."""
    rank, taps = found.rank, delta.shape[2:]
    up = found.up.view(delta.shape[0], rank, *(1 for _ in taps)).to(dtype)
    down = found.down.reshape(rank, *delta.shape[1:]).to(dtype)
    if not (finite(up) and finite(down)):
        raise InvalidValue(f"{name} leaves the range of {dtype}: use --dtype bfloat16 or float32")
    return {
        f"{name}.lora_up.weight": up.contiguous(),
        f"{name}.lora_down.weight": down.contiguous(),
        f"{name}.alpha": torch.tensor(float(rank), dtype=dtype),
    }


def _share(delta: SparseDelta, found: Factors) -> Share:
    total, numbers = energy(delta), found.up.numel() + found.down.numel()
    return Share(numbers, math.prod(delta.shape), total - residual(delta, found), total)


def _metadata(header: Header, rank: int) -> dict[str, str]:
    """Return what tools of LoRAs read, and the adapter's own header as JSON."""
    noted = converted(header, f"LoRA of rank {rank}")
    keys = {**header.extra, **for_other_tools(header)}
    spec = keys["modelspec.architecture"].removesuffix("/shira")
    return {
        **keys,
        "modelspec.architecture": f"{spec}/lora",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "format": "pt",
        HEADER: json.dumps(to_json(noted), ensure_ascii=False),
    }

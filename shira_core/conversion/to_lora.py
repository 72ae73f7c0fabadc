"""A LoRA from an adapter: the closest one of a given rank, under kohya's names.

ComfyUI, the WebUIs and diffusers read these: SD1.x and SD2.x with diffusers' names of the UNet, all
other denoisers with the original ones; text encoders with transformers' names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save
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
from .low_rank import energy, factors, residual
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
            temporary.write_bytes(save(dict(self.tensors), metadata=dict(self.metadata)))
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
        own, share = _module(modules.weights.read(name), rank, dtype)
        module, whole = _kohya(name, adapter.header.architecture), modules.weights.origin(name)
        tensors |= {f"{module}.{part}": tensor for part, tensor in own.items()}
        shares[whole] = shares.get(whole, Share()) + share
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


def _module(delta: SparseDelta, rank: int, dtype: torch.dtype) -> tuple[dict[str, Tensor], Share]:
    """Return the tensors of a module, shaped as kohya does (taps in `down`), and what they hold.

    All modules have one alpha, also those of a smaller rank, whose `up` makes up for it: diffusers
    mistakes alphas that differ.
    """
    best = factors(delta, rank)
    strength = rank / max(1, best.rank)
    stored = replace(best, up=best.up / strength).to(dtype)
    if not (finite(stored.up) and finite(stored.down)):
        raise InvalidValue(f"the LoRA leaves the range of {dtype}: use bfloat16 or float32")
    found = replace(stored, up=stored.up * strength)
    total, cells = energy(delta), math.prod(delta.shape)
    numbers = found.up.numel() + found.down.numel()
    share = Share(numbers, cells, total - residual(delta, found), total)
    if not found.rank:
        return {}, share
    ones = [1] * len(delta.shape[2:])
    up = stored.up.reshape(delta.shape[0], found.rank, *ones).to(dtype).contiguous()
    down = stored.down.reshape(found.rank, *delta.shape[1:]).to(dtype).contiguous()
    alpha = torch.tensor(float(rank))
    return {"lora_up.weight": up, "lora_down.weight": down, "alpha": alpha}, share


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

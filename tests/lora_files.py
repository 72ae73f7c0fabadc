"""Tiny pipelines, their checkpoints, and LoRAs of them in the names of several programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sd_modules as sd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

LINEAR = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
CONV = ["conv1", "conv2", "conv_shortcut", "time_emb_proj", "conv_in", "conv"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
KOHYA = {"unet": "lora_unet_", "te1": "lora_te_", "te2": "lora_te2_"}


def tiny(architecture: str) -> Any:
    """Return a pipeline with random weights, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = {c: sd.module(architecture, c, "tiny") for c in sd.PREFIXES[architecture]}
    return sd.pipeline(architecture, parts)


def checkpoint(architecture: str, pipe: Any) -> dict[str, Tensor]:
    """Return the pipeline's weights as its checkpoint has them."""
    rows: dict[str, dict[int, Tensor]] = {}
    modules = sd.components(pipe)
    for component, own in sd.sources(architecture, modules).items():
        weights = modules[component].state_dict()
        for name, source in own.items():
            value = weights[name].t() if source.transposed else weights[name]
            rows.setdefault(source.name, {})[source.part] = value
    found = {name: torch.cat([own[part] for part in sorted(own)]) for name, own in rows.items()}
    return {name: value.detach().clone().contiguous() for name, value in found.items()}


def write_checkpoint(path: Path, architecture: str) -> Path:
    save_file(checkpoint(architecture, tiny(architecture)), path)
    return path


def layers(pipe: Any, component: str, wanted: list[str]) -> dict[str, nn.Module]:
    """Return the layers of a component whose names end as wanted."""
    module = sd.components(pipe)[component]
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and name.endswith(tuple(wanted))
    }


def factors(layer: nn.Module, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return random factors (up, down) in the shapes that kohya's script gives them."""
    outputs, inputs, *taps = layer.weight.shape
    ones = [1] * len(taps)
    down = torch.randn(rank, inputs, *taps, generator=generator) * 0.1
    return torch.randn(outputs, rank, *ones, generator=generator) * 0.1, down


def kohya(
    pipe: Any,
    components: Mapping[str, str] = KOHYA,
    *,
    rank: int = 3,
    alpha: float | None = 2.0,
    rename: Callable[[str, str], str] = lambda component, name: name.replace(".", "_"),
) -> dict[str, Tensor]:
    """Return a LoRA in kohya's layout: linear layers, convolutions and text encoders.

    components: how names begin. alpha: None leaves it out. rename: a layer's name after that.
    """
    generator = torch.Generator().manual_seed(1)
    found = {}
    for component in sd.components(pipe):
        start = components[component]
        for name, layer in layers(pipe, component, LINEAR + CONV + TEXT).items():
            key = start + rename(component, name)
            up, down = factors(layer, rank, generator)
            found |= {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}
            if alpha is not None:
                found[f"{key}.alpha"] = torch.tensor(alpha)
    return found

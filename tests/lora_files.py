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
TEXT_MODEL, PEFT = "text_model.", "base_model.model."
COMFYUI = {
    "unet": "diffusion_model.",
    "te1": "text_encoders.clip_l.transformer.",
    "te2": "text_encoders.clip_g.transformer.",
}


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


def namer(architecture: str, pipe: Any, kind: str) -> Callable[[str, str], str]:
    """Return what gives a layer, of a component, its name in a LoRA.

    kind: "kohya", or with the denoiser's names of the checkpoint: "sgm" as kohya writes SDXL,
    "comfyui", or "checkpoint" for all of its own names (but OpenCLIP's, whose layers are fused).
    """
    sources = sd.sources(architecture, sd.components(pipe))
    te1 = "lora_te1_" if architecture == "sdxl" else "lora_te_"
    starts = {"unet": "lora_unet_", "te1": te1, "te2": "lora_te2_"}

    def name(component: str, layer: str) -> str:
        original = sources[component][f"{layer}.weight"].name.removesuffix(".weight")
        if component == "unet":
            short = original.removeprefix(sd.PREFIXES[architecture]["unet"])
        else:
            layer = short = TEXT_MODEL + layer.removeprefix(TEXT_MODEL)
        if kind == "checkpoint" and component != "te2":
            return original
        if kind == "comfyui":
            return COMFYUI[component] + short
        return starts[component] + (layer if kind == "kohya" else short).replace(".", "_")

    return name


def low_rank(
    pipe: Any, name: Callable[[str, str], str], *, rank: int = 3, alpha: float | None = 2.0
) -> dict[str, Tensor]:
    """Return a LoRA of linear layers, convolutions and text encoders; always the same.

    alpha: None leaves it out.
    """
    generator = torch.Generator().manual_seed(1)
    found = {}
    for component in sd.components(pipe):
        for layer, module in layers(pipe, component, LINEAR + CONV + TEXT).items():
            key = name(component, layer)
            up, down = factors(module, rank, generator)
            found |= {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}
            if alpha is not None:
                found[f"{key}.alpha"] = torch.tensor(alpha)
    return found


def kohya(architecture: str, **options: Any) -> dict[str, Tensor]:
    """Return a LoRA as kohya's script writes it."""
    pipe = tiny(architecture)
    return low_rank(pipe, namer(architecture, pipe, "kohya"), **options)


def randomise(module: nn.Module) -> None:
    """Give the factors that PEFT starts as zeros random values, and magnitudes others."""
    generator = torch.Generator().manual_seed(2)
    for name, weight in module.named_parameters():
        if ".lora_B." in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.1
        elif ".lora_magnitude_vector." in name:
            weight.data *= 1 + torch.rand(weight.shape, generator=generator)


def write_diffusers(folder: Path, pipe: Any, settings: Mapping[str, Any]) -> Path:
    """Write a LoRA made by PEFT with diffusers' own function, and return its path.

    Afterwards the pipeline has the weights that PEFT merges.
    """
    import peft

    found: dict[str, Any] = {}
    for component, module in sd.components(pipe).items():
        targets = TEXT if component != "unet" else ["to_q", "to_k", "to_out.0", "ff.net.2", "conv1"]
        config = peft.LoraConfig(target_modules=targets, **settings)
        model = peft.get_peft_model(module, config)
        randomise(model)
        state = peft.get_peft_model_state_dict(model)
        part = sd.ATTRIBUTES[component]
        found[f"{part}_lora_layers"] = {n.removeprefix(PEFT): v.clone() for n, v in state.items()}
        found[f"{part}_lora_adapter_metadata"] = config.to_dict()
        model.merge_and_unload()
    pipe.save_lora_weights(folder, **found)
    return folder / "pytorch_lora_weights.safetensors"

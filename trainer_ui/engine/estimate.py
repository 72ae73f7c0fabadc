"""How much GPU memory a training step takes, from the UNet's config alone.

One step is traced on meta tensors, see `tracing`: the weights, the entries' values and optimizer
state, and whatever the forward and backward passes hold at the worst moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from shira_core import masks
from shira_core.masks.request import budget
from shira_core.training import structured

from . import tracing

META = torch.device("meta")
TEXT_TOKENS = 77
POSITION = 4  # int32
FLAT = 4 + 4  # the vector and its gradient, float32
MEAN = 4  # float32
DORA = 4 + 8  # a wide copy of the base, the channel of each entry
# What optimizers keep per entry beside the vector and its gradient, and what they need on the way,
# when the step's own tensors are gone. Adafactor keeps a whole second moment of a vector.
OPTIMIZERS = {
    "adamw": (8, 0),
    "adamw8bit": (2, 0),
    "prodigy": (16, 8),
    "lion": (4, 4),
    "adafactor": (4, 8),
}
LIBRARIES = 32 << 20  # cuBLAS's workspace
CONTEXT = 600 << 20  # CUDA's own, outside of torch's allocator
SLACK = 0.04  # of the allocator: blocks that fit nothing


@dataclass(frozen=True)
class Step:
    """What the memory of a step depends on.

    unet: arguments of diffusers' UNet2DConditionModel. layers: names of the trained modules, with
    their own density, 0 for none, None for the general one.
    mask, options, density, rank: as in `masks.build`. size: (width, height) of the latents.
    vae: arguments of diffusers' AutoencoderKL where samples are drawn, else None.
    held: dtype of the weights. autocast: dtype of the products where it is another.
    """

    unet: Mapping[str, Any]
    layers: Mapping[str, float | None]
    mask: str
    density: float | None
    rank: int | None
    batch: int
    size: tuple[int, int]
    checkpointing: bool
    held: torch.dtype
    autocast: torch.dtype | None = None
    optimizer: str = "adamw"
    dora: bool = False
    ema: bool = False
    channels_last: bool = False
    vae: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Memory:
    """Bytes. weights: of the UNet. states: of all entries. peak: the most in a training step.

    drawing: the most while a sample's latents are decoded, 0 without samples. trained: positions of
    the trained weights, of which entries are trained.
    """

    entries: int
    trained: int
    weights: int
    states: int
    peak: int
    drawing: int

    @property
    def needed(self) -> int:
        """Free memory that a GPU must have."""
        return round(max(self.peak, self.drawing) * (1 + SLACK)) + CONTEXT


def build(config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """Return a UNet without weights."""
    from diffusers import UNet2DConditionModel

    with META:
        unet: Any = UNet2DConditionModel(**config)
    nn.Module.to(unet, dtype)  # diffusers' own would warn
    return unet.requires_grad_(False).train()


def memory(step: Step) -> Memory:
    """Return what a training step takes."""
    unet = build(step.unet, step.held)
    if step.channels_last:
        unet.to(memory_format=torch.channels_last)
    if step.checkpointing:
        unet.enable_gradient_checkpointing(tracing.checkpoint(step.autocast))
    weights = sum(each.numel() * each.element_size() for each in unet.parameters())
    with _trained(unet, step) as trained:
        held = [*unet.parameters(), torch.empty(trained.states, dtype=torch.uint8, device=META)]
        peak = _trace(unet, step, held)
    kept = weights + trained.states
    stepping = kept + OPTIMIZERS[step.optimizer][1] * trained.entries
    return Memory(
        entries=trained.entries,
        trained=trained.positions,
        weights=weights,
        states=trained.states,
        peak=max(peak, stepping) + LIBRARIES,
        drawing=kept + _decoding(step.vae, step.size) + LIBRARIES if step.vae else 0,
    )


def _decoding(config: Mapping[str, Any], size: tuple[int, int]) -> int:
    """Return what a VAE takes in float32 for one picture, its weights included."""
    from diffusers import AutoencoderKL

    width, height = size
    with META:
        vae: Any = AutoencoderKL(**config).requires_grad_(False)
    with torch.no_grad(), tracing.Meter(vae.parameters()) as meter, tracing.Rules(None):
        vae.decode(torch.empty(1, vae.config.latent_channels, height, width, device=META))
    return meter.peak


def _trace(unet: Any, step: Step, held: Sequence[Tensor]) -> int:
    with tracing.Meter(held) as meter:
        inputs = _inputs(unet.config, step)
        with tracing.Rules(step.autocast):
            predicted = unet(**inputs).sample
        loss = nn.functional.mse_loss(predicted.float(), torch.empty_like(predicted).float())
        del predicted
        loss.backward()
    return meter.peak


def _inputs(config: Any, step: Step) -> dict[str, Any]:
    """Return a batch, as `Base.denoise` gives it to the UNet."""

    dtype = torch.float32 if step.autocast else step.held

    def tensor(*shape: int) -> Tensor:
        return torch.empty(step.batch, *shape, dtype=dtype, device=META)

    width, height = step.size
    inputs: dict[str, Any] = {
        "sample": tensor(config.in_channels, height, width),
        "timestep": torch.empty(step.batch, dtype=torch.int64, device=META),
        "encoder_hidden_states": tensor(TEXT_TOKENS, config.cross_attention_dim),
    }
    if config.addition_embed_type == "text_time":
        numbers = 6 * config.addition_time_embed_dim
        pooled = config.projection_class_embeddings_input_dim - numbers
        inputs["added_cond_kwargs"] = {"text_embeds": tensor(pooled), "time_ids": tensor(6)}
    return inputs


@dataclass(frozen=True)
class _Trained:
    """Positions of the trained weights, entries, and bytes that are kept for these."""

    positions: int = 0
    entries: int = 0
    states: int = 0

    def plus(self, positions: int, entries: int, each: int) -> _Trained:
        return _Trained(
            self.positions + positions, self.entries + entries, self.states + entries * each
        )


@contextmanager
def _trained(unet: Any, step: Step) -> Iterator[_Trained]:
    """Let the chosen layers have gradients, as `shira_core.training.finetune` does."""
    found, each = _Trained(), _bytes_per_entry(step)
    with ExitStack() as stack:
        for name, own in step.layers.items():
            if own == 0:
                continue
            layer = unet.get_submodule(name)
            shape = tuple(layer.weight.shape)
            density, rank = (step.density, step.rank) if own is None else (own, None)
            layer.weight.requires_grad_(True)
            layer.weight.register_post_accumulate_grad_hook(_drop)
            count, more = budget(shape, density, rank), 0
            if step.mask == "struct":
                lines, count = _lines(layer.weight, name, density, rank, step.options)
                entries = torch.empty(count, dtype=step.held, device=META, requires_grad=True)
                entries.register_post_accumulate_grad_hook(_drop)
                stack.enter_context(structured.installed(layer, entries, lines))
                more = POSITION * (lines.order is not None)
            found = found.plus(math.prod(shape), count, each + more)
        yield found


def _bytes_per_entry(step: Step) -> int:
    kept = FLAT + OPTIMIZERS[step.optimizer][0] + POSITION + step.held.itemsize
    return kept + DORA * step.dora + MEAN * step.ema


def _lines(
    weight: Tensor, name: str, density: float | None, rank: int | None, options: Mapping[str, Any]
) -> tuple[structured.Lines, int]:
    mask = masks.build("struct", weight, layer=name, density=density, rank=rank, **options)
    assert mask.struct is not None
    lines = structured.lines_of(mask, mask.struct)
    moved = {
        name: each.to(META)
        for name in ("rows", "kept", "columns", "order")
        if (each := getattr(lines, name)) is not None
    }
    return replace(lines, **moved), mask.count


def _drop(leaf: Tensor) -> None:
    leaf.grad = None

"""A small model built as AUTOMATIC1111 builds its own, and what it must hold by dense sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from adapters import bits, random_adapter
from torch import Tensor, nn
from webui_stubs import networks

import shira_core as shira
from a1111_extension.stack import Timed
from shira_core.names import component

FP8 = torch.float8_e4m3fn
UNET = "model.diffusion_model."
TEXT = "conditioner.embedders.1.model.transformer.resblocks.0."
SCALE = 0.5  # values of fp8 weights stay in their range


@dataclass(frozen=True)
class Kind:
    """How a model's weights are stored. cached: 16-bit weights beside those of 8 bits."""

    dtype: torch.dtype
    channels_last: bool = False
    cached: bool = False


KINDS = {
    "fp32": Kind(torch.float32),
    "fp16": Kind(torch.float16),
    "bf16": Kind(torch.bfloat16),
    "channels_last": Kind(torch.float16, channels_last=True),
    "fp8": Kind(FP8),
    "fp8 cached": Kind(FP8, cached=True),
}


class Wrapper(nn.Module):
    """What the WebUI puts around text encoders and embeddings."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped


def tree(leaves: Mapping[str, nn.Module]) -> nn.Module:
    """Return a module that holds others at these paths."""
    root = nn.Module()
    for path, leaf in leaves.items():
        *parents, last = path.split(".")
        place = root
        for part in parents:
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place._modules[part]  # type: ignore[assignment]
        place.add_module(last, leaf)
    return root


def build(kind: Kind, seed: int = 0) -> nn.Module:
    """Return a model with random weights of a kind."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = tree(
            {
                "model.transformer.resblocks.0.attn": nn.MultiheadAttention(8, 2),
                "model.token_embedding": Wrapper(nn.Embedding(6, 8)),
            }
        )
        model = tree(
            {
                "model.diffusion_model.input_blocks.0.0": nn.Conv2d(4, 8, 3),
                "model.diffusion_model.input_blocks.1.1.proj_in": nn.Linear(8, 12),
                "model.diffusion_model.middle_block.1.to_k": nn.Linear(8, 8, bias=False),
                "model.diffusion_model.out.0": nn.GroupNorm(2, 8),
                "conditioner.embedders.1": Wrapper(text),
            }
        )
        for weight in model.parameters():
            weight.requires_grad_(False).copy_(torch.randn(weight.shape) * SCALE)
    store(model, kind)
    networks.assign(model)
    return model


def store(model: nn.Module, kind: Kind) -> None:
    """Have a model hold its weights as a kind."""
    model.to(torch.float16 if kind.dtype == FP8 else kind.dtype)
    if kind.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in model.modules():
        if kind.dtype == FP8 and isinstance(module, (nn.Linear, nn.Conv2d)):
            if kind.cached:
                module.fp16_weight = module.weight.data.clone()
                if module.bias is not None:
                    module.fp16_bias = module.bias.data.clone()
            module.to(FP8)


def held(model: nn.Module) -> dict[str, Tensor]:
    """Return what a model holds, 16-bit copies of 8-bit weights too, by names in checkpoints."""
    found = dict(model.named_parameters())
    for path, module in model.named_modules():
        for attribute in ("fp16_weight", "fp16_bias"):
            if getattr(module, attribute, None) is not None:
                found[f"{path}.{attribute}"] = getattr(module, attribute)
    return {name.replace(".wrapped", ""): tensor.detach().clone() for name, tensor in found.items()}


def expected(
    base: Mapping[str, Tensor],
    stack: Sequence[Timed] = (),
    loras: Sequence[networks.Network] = (),
    share: float = 0.0,
) -> dict[str, Tensor]:
    """Return what a model must hold: the base, adapters by dense sums, Lora's changes on top."""
    return {name: _expected(base, name, stack, loras, share) for name in base}


def _expected(
    base: Mapping[str, Tensor],
    name: str,
    stack: Sequence[Timed],
    loras: Sequence[networks.Network],
    share: float,
) -> Tensor:
    plain = name.replace("fp16_", "")
    layer, _, attribute = plain.rpartition(".")
    cached = base.get(f"{layer}.fp16_{attribute}")
    start = base[name] if cached is None else cached
    worn = alone = _added(start, plain, stack, share).to(start.dtype)
    if name != plain:
        return worn
    for lora in loras:
        change = lora.change(*_lora_place(plain))
        if change is not None:  # attentions add in their own dtype, other modules in float32
            wide = (worn if cached is None else alone).float() + change  # the last one wins there
            worn = worn + change.to(worn.dtype) if "attn" in plain else wide.to(base[name].dtype)
    return worn.to(base[name].dtype)


def _added(start: Tensor, name: str, stack: Sequence[Timed], share: float) -> Tensor:
    total = torch.zeros(start.shape)
    for each in stack:
        on = component(name) != "unet" or each.start <= share < each.stop
        if on and name in each.entry.adapter.weights:
            dense = each.entry.adapter.weights[name].dense().float()
            total += dense * each.entry.alpha.at(name)
    return start.float() + total


def _lora_place(name: str) -> tuple[str, str]:
    """Return the module and the part that the built-in Lora knows a weight by."""
    layer, _, attribute = name.rpartition(".")
    if layer.endswith("attn.out_proj"):
        return _module(layer.removesuffix(".out_proj")), "out" if attribute == "weight" else "none"
    return _module(layer), attribute


def _module(layer: str) -> str:
    return layer.replace("embedders.1.model", "embedders.1.wrapped.model")


def check_equal(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Fail unless two models hold the same numbers; dense sums make -0 to 0."""
    assert found.keys() == wanted.keys()
    assert [name for name in found if not found[name].float().equal(wanted[name].float())] == []


def check_bits(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Fail unless two models hold the same, bit for bit."""
    assert found.keys() == wanted.keys()
    assert [name for name in found if bits(found[name]) != bits(wanted[name])] == []


def random_lora(model: nn.Module, seed: int, multiplier: float = 1.0) -> networks.Network:
    """Return a network of the built-in Lora that changes most weights, and adds a bias."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        _lora_place(name): weight.shape
        for name, weight in held(model).items()
        if "fp16_" not in name
        and "embedding" not in name
        and "in_proj_bias" not in name
        and not ("attn" in name and weight.dtype == FP8)  # the built-in Lora cannot add to these
    }
    changes = {
        place: torch.randn(shape, generator=generator) * 0.1
        for place, shape in shapes.items()
        if place[1] != "none"
    }
    return networks.Network(f"lora{seed}", multiplier, changes)


@cache
def adapters() -> list[shira.Adapter]:
    """Return adapters that fit the model: of all weights, of some, and one like the first.

    With alphas in quarters their sums are exact in any order.
    """
    shapes = {name: tuple(weight.shape) for name, weight in held(build(KINDS["fp32"])).items()}
    some = {name: shape for name, shape in shapes.items() if "blocks" in name}
    return [exact(shapes, 1, 0.3), exact(some, 2, 0.2), exact(shapes, 3, 0.05)]


def exact(shapes: Mapping[str, tuple[int, ...]], seed: int, density: float) -> shira.Adapter:
    """Return a random adapter whose values are multiples of 1/64."""
    adapter = random_adapter(shapes, seed, density=density, scale=0.2)
    weights = shira.MemoryWeights()
    for name, delta in adapter.weights.items():  # type: ignore[attr-defined]
        weights[name] = shira.SparseDelta(delta.mask, delta.values.mul(64).round().div(64))
    return shira.Adapter(adapter.header, weights)

"""Adapters on diffusers pipelines: the right numbers in every weight, and exact restore."""

from __future__ import annotations

import copy
import functools
import gc
import itertools
import math
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import sd_modules as sd

import shira_core as shira
from shira_core.adapter import Adapter, Header, MemoryWeights
from shira_core.errors import (
    ArchitectureMismatch,
    InvalidValue,
    ShapeMismatch,
    ShiraError,
    WeightMissing,
)
from shira_core.integrations.diffusers import load_shira
from shira_core.mask import Mask, SparseDelta

TINY = {"sd15": "sd15-compact", "sdxl": "sdxl"}


@functools.cache
def template(architecture: str) -> dict[str, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {c: sd.module(architecture, c, "tiny") for c in sd.PREFIXES[architecture]}


def pipeline(architecture: str) -> Any:
    """A tiny pipeline with random weights, equal each time."""
    return sd.pipeline(architecture, copy.deepcopy(template(architecture)))


def adapter_for(
    pipe: Any, architecture: str, seed: int = 0, only: tuple[str, ...] = (), **header: Any
) -> Adapter:
    modules = {c: m for c, m in sd.components(pipe).items() if not only or c in only}
    deltas = sd.random_deltas(architecture, modules, 50, seed)
    return Adapter(Header(architecture=TINY[architecture], **header), MemoryWeights(deltas))


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def picture(pipe: Any, architecture: str) -> Tensor:
    """The latents of a short run; text embeddings come from the text encoders."""
    tokens = torch.tensor([[0, 5, 7, 1]])
    states = [
        module(tokens, output_hidden_states=True)
        for name, module in sd.components(pipe).items()
        if name != "unet"
    ]
    prompts = torch.cat([state.hidden_states[-2] for state in states], -1)
    options = {"prompt_embeds": prompts, "negative_prompt_embeds": torch.zeros_like(prompts)}
    if architecture == "sdxl":
        pooled = states[1].text_embeds
        options["pooled_prompt_embeds"] = pooled
        options["negative_pooled_prompt_embeds"] = torch.zeros_like(pooled)
    return pipe(
        **options,
        height=64,
        width=64,
        num_inference_steps=2,
        output_type="latent",
        generator=torch.Generator().manual_seed(0),
    ).images


@pytest.mark.parametrize("architecture", TINY)
def test_pictures_follow_alpha_and_come_back(architecture: str) -> None:
    pipe = pipeline(architecture)
    base = picture(pipe, architecture)
    handle = load_shira(pipe, adapter_for(pipe, architecture), alpha=0.02)
    weak = picture(pipe, architecture)
    handle.set_alpha(0.04)
    strong = picture(pipe, architecture)
    assert bool(weak.isfinite().all())
    assert not torch.equal(base, weak)
    assert not torch.equal(weak, strong)
    handle.set_alpha(0.02)
    assert torch.equal(picture(pipe, architecture), weak)
    handle.remove()
    assert torch.equal(picture(pipe, architecture), base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_set_alpha_is_loading_at_that_alpha(dtype: torch.dtype) -> None:
    pipe = pipeline("sdxl")
    for module in sd.components(pipe).values():
        module.to(dtype)
    adapter, base = adapter_for(pipe, "sdxl"), sd.snapshot(pipe)
    with load_shira(pipe, adapter, alpha=0.3):
        loaded = sd.snapshot(pipe)
    assert equal(sd.snapshot(pipe), base)
    with load_shira(pipe, adapter) as handle:
        handle.set_alpha(0.3)
        assert equal(sd.snapshot(pipe), loaded)
    assert equal(sd.snapshot(pipe), base)


Stacked = list[tuple[Adapter, float]]


@pytest.fixture(scope="module")
def stacked() -> Stacked:
    """Three entries with common weights and positions, two of them of one adapter."""
    pipe = pipeline("sd15")
    one, two = adapter_for(pipe, "sd15", 1), adapter_for(pipe, "sd15", 2, only=("unet",))
    return [(one, 0.3), (two, -0.7), (one, 0.2)]


@pytest.fixture(scope="module")
def fresh(stacked: Stacked) -> dict[tuple[int, ...], dict[str, Tensor]]:
    """The weights of fresh pipelines into which only these entries were loaded."""
    found = {}
    for size in range(len(stacked)):
        for chosen in itertools.combinations(range(len(stacked)), size):
            pipe = pipeline("sd15")
            for index in chosen:
                load_shira(pipe, *stacked[index])
            found[chosen] = sd.snapshot(pipe)
    return found


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_adapters_are_removed_in_any_order(
    order: tuple[int, ...], stacked: Stacked, fresh: dict[tuple[int, ...], dict[str, Tensor]]
) -> None:
    pipe = pipeline("sd15")
    handles = [load_shira(pipe, adapter, alpha) for adapter, alpha in stacked]
    for number, index in enumerate(order, 1):
        handles[index].remove()
        assert equal(sd.snapshot(pipe), fresh[tuple(sorted(order[number:]))])


def test_a_removed_adapter_stays_removed() -> None:
    pipe = pipeline("sd15")
    base = sd.snapshot(pipe)
    handle = load_shira(pipe, adapter_for(pipe, "sd15"))
    handle.remove()
    handle.remove()
    with pytest.raises(InvalidValue, match="was removed"):
        handle.set_alpha(1.0)
    assert equal(sd.snapshot(pipe), base)


def test_alphas_go_by_component_and_block() -> None:
    pipe = pipeline("sdxl")
    adapter, base = adapter_for(pipe, "sdxl"), sd.snapshot(pipe)
    alpha = shira.Alpha(0.5, components={"te2": 0.0}, blocks={"mid": 0.0, "te1.1": 0.0})
    with load_shira(pipe, adapter, alpha):
        changed = {name for name, w in sd.snapshot(pipe).items() if not torch.equal(w, base[name])}
    still = ("unet.mid_block.", "te2.", "te1.encoder.layers.1.", "te1.text_model.encoder.layers.1.")
    assert {name for name in base if not name.startswith(still)} - changed == {
        name for name in base if name.endswith("position_ids")
    }
    assert not any(name.startswith(still) for name in changed)


def test_an_adapter_of_the_unet_alone_fits_without_text_encoders() -> None:
    pipe = pipeline("sdxl")
    whole, unet = adapter_for(pipe, "sdxl"), adapter_for(pipe, "sdxl", only=("unet",))
    pipe.text_encoder = pipe.text_encoder_2 = None
    base = sd.snapshot(pipe)
    with load_shira(pipe, unet):
        assert not equal(sd.snapshot(pipe), base)
    with pytest.raises(WeightMissing, match=r"embedders\.\d.*it has unet\)"):
        load_shira(pipe, whole)
    assert equal(sd.snapshot(pipe), base)


def test_a_failure_changes_nothing_and_keeps_what_was_loaded() -> None:
    pipe = pipeline("sd15")
    pipe.unet.half()
    handle = load_shira(pipe, adapter_for(pipe, "sd15"), alpha=0.1)
    before = sd.snapshot(pipe)
    for alpha in (1e6, math.nan):
        with pytest.raises(InvalidValue):
            load_shira(pipe, adapter_for(pipe, "sd15", 1), alpha)
        with pytest.raises(InvalidValue):
            handle.set_alpha(alpha)
        assert equal(sd.snapshot(pipe), before)
    with pytest.raises(RuntimeError, match="stop"), handle:
        raise RuntimeError("stop")
    assert not equal(sd.snapshot(pipe), before)


def test_pipelines_that_share_modules_share_the_stack() -> None:
    pipe = pipeline("sd15")
    base = sd.snapshot(pipe)
    twin = sd.pipeline("sd15", sd.components(pipe))
    first = load_shira(pipe, adapter_for(pipe, "sd15", 1), 0.5)
    second = load_shira(twin, adapter_for(pipe, "sd15", 2), 0.5)
    first.remove()
    fresh = pipeline("sd15")
    load_shira(fresh, adapter_for(fresh, "sd15", 2), 0.5)
    assert equal(sd.snapshot(pipe), sd.snapshot(fresh))
    alone = sd.pipeline("sd15", {**sd.components(pipe), "te1": None})
    with pytest.raises(InvalidValue, match="shares only some"):
        load_shira(alone, adapter_for(alone, "sd15"))
    second.remove()
    assert equal(sd.snapshot(pipe), base)
    load_shira(alone, adapter_for(alone, "sd15")).remove()
    assert equal(sd.snapshot(pipe), base)


def test_a_dropped_pipeline_is_freed() -> None:
    pipe = pipeline("sd15")
    load_shira(pipe, adapter_for(pipe, "sd15"))
    unet = weakref.ref(pipe.unet)
    del pipe
    gc.collect()
    assert unet() is None


def test_lora_and_compilation_wrap_the_same_weights() -> None:
    peft = pytest.importorskip("peft")
    pipe = pipeline("sd15")
    adapter = adapter_for(pipe, "sd15")
    with load_shira(pipe, adapter, 0.5):
        plain = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight.clone()
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "conv1"]))
    pipe.unet = torch.compile(pipe.unet)
    base = sd.snapshot(pipe)
    with load_shira(pipe, adapter, 0.5):
        layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
        assert torch.equal(layer.base_layer.weight, plain)
    assert equal(sd.snapshot(pipe), base)


def flux() -> Any:
    """A pipeline without a UNet, whose checkpoints no key map knows."""
    import diffusers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = diffusers.FluxTransformer2DModel(
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=48,
            pooled_projection_dim=48,
            axes_dims_rope=(4, 4, 8),
        )
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=sd.module("sd15", "te1", "tiny"),
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )


def own_names(module: nn.Module, prefix: str = "", seed: int = 0) -> Adapter:
    with shira.training.finetune(module, "rand", names=lambda name: prefix + name) as run:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            run.parameters()[0].normal_(generator=generator)
        return run.adapter()


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_a_file_with_the_modules_own_names_fits_any_pipeline(part: str, tmp_path: Path) -> None:
    pipe = flux()
    module = getattr(pipe, part)
    path = tmp_path / "own.shira"
    own_names(module, "" if part == "transformer" else f"{part}.").save(path)
    base = {name: weight.clone() for name, weight in module.state_dict().items()}
    plain = own_names(module)
    with shira.apply(module, [(plain, 0.5)]):
        wanted = {name: weight.clone() for name, weight in module.state_dict().items()}
    assert not equal(wanted, base)
    with load_shira(pipe, path, 0.5):
        assert equal(module.state_dict(), wanted)
    assert equal(module.state_dict(), base)
    te1_off = shira.Alpha(0.5, components={"te1": 0.0})
    with load_shira(pipe, path, te1_off):
        assert equal(module.state_dict(), wanted if part == "transformer" else base)


def test_own_names_fit_a_known_architecture_too() -> None:
    pipe = pipeline("sd15")
    both = [(own_names(pipe.unet), 0.5), (adapter_for(pipe, "sd15"), 0.1)]
    base = sd.snapshot(pipe)
    first, second = (load_shira(pipe, *each) for each in both)
    mixed = sd.snapshot(pipe)
    first.remove()
    assert not equal(sd.snapshot(pipe), mixed)
    second.remove()
    assert equal(sd.snapshot(pipe), base)


def no_map() -> tuple[Any, Adapter]:
    name = "double_blocks.0.img_attn.qkv.weight"
    delta = SparseDelta(Mask((96, 32), torch.tensor([0])), torch.ones(1))
    return flux(), Adapter(Header(), MemoryWeights({name: delta}))


def smaller() -> tuple[Any, Adapter]:
    pipe = flux()
    adapter = own_names(pipe.transformer)
    weights = {n: adapter.weights[n] for n in adapter.weights}
    weights["transformer_blocks.7.attn.to_q.weight"] = weights.popitem()[1]
    return pipe, Adapter(Header(), MemoryWeights(weights))


def other_architecture() -> tuple[Any, Adapter]:
    return pipeline("sdxl"), adapter_for(pipeline("sd15"), "sd15")


def other_architecture_back() -> tuple[Any, Adapter]:
    return pipeline("sd15"), adapter_for(pipeline("sdxl"), "sdxl")


def other_width() -> tuple[Any, Adapter]:
    name = "model.diffusion_model.out.2.weight"
    delta = SparseDelta(Mask((4, 320, 3, 3), torch.tensor([0])), torch.ones(1))
    return pipeline("sd15"), Adapter(Header("sd15-compact"), MemoryWeights({name: delta}))


def without_unet() -> tuple[Any, Adapter]:
    return object(), adapter_for(pipeline("sd15"), "sd15")


def fused() -> tuple[Any, Adapter]:
    pipe = pipeline("sd15")
    pipe.fuse_qkv_projections(vae=False)
    return pipe, adapter_for(pipeline("sd15"), "sd15")


def offloaded() -> tuple[Any, Adapter]:
    pipe = pipeline("sd15")
    adapter = adapter_for(pipe, "sd15")
    pipe.unet.to("meta")
    return pipe, adapter


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (other_architecture, ArchitectureMismatch, r"compact SD1\.5 and the pipeline is SDXL"),
        (other_architecture_back, ArchitectureMismatch, r"SDXL and the pipeline is compact SD1\.5"),
        (other_width, ShapeMismatch, "4x320x3x3 in the adapter and 4x32x3x3 in the model"),
        (without_unet, InvalidValue, "object has no UNet and no transformer"),
        (no_map, ArchitectureMismatch, r"no map from diffusers .*use one of SD1\.5"),
        (smaller, WeightMissing, r"changes transformer_blocks\.7\.attn\.to_q\.weight"),
        (fused, InvalidValue, r"unfuse_qkv_projections\(\) first"),
        (offloaded, InvalidValue, r"before enable_sequential_cpu_offload\(\)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_loaded_is_one_clear_line(
    make: Callable[[], tuple[Any, Adapter]], kind: type[ShiraError], text: str
) -> None:
    pipe, adapter = make()
    with pytest.raises(kind, match=text) as caught:
        load_shira(pipe, adapter)
    assert "\n" not in str(caught.value)


def test_replaced_weights_are_noticed() -> None:
    pipe = pipeline("sd15")
    handle = load_shira(pipe, adapter_for(pipe, "sd15"))
    pipe.unet.load_state_dict(pipeline("sd15").unet.state_dict(), assign=True)
    base = sd.snapshot(pipe)
    for change in (lambda: handle.set_alpha(0.5), handle.remove):
        with pytest.raises(InvalidValue, match="were replaced"):
            change()
    assert equal(sd.snapshot(pipe), base)


def test_a_pipeline_can_be_moved_and_unfused() -> None:
    pipe = pipeline("sd15")
    base = sd.snapshot(pipe)
    pipe.fuse_qkv_projections(vae=False)
    pipe.unfuse_qkv_projections(vae=False)
    handle = load_shira(pipe, adapter_for(pipe, "sd15"))
    pipe.to("cpu")
    pipe.unet.to(memory_format=torch.channels_last)
    handle.remove()
    assert all(torch.equal(base[name], w) for name, w in sd.snapshot(pipe).items() if name in base)

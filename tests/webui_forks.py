"""Forge and reForge in stubs: a model, and what their loaders make of it for a picture."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from webui_fork_stubs import CLIP, ModelPatcher, ReForgePatcher
from webui_model import Wrapper, exact, tree
from webui_stubs import patches, script_callbacks, sd_samplers_common, shared

import shira_core as shira
from a1111_extension.hosts import forge, reforge
from a1111_extension.hosts.patched import Patched
from a1111_extension.stack import Timed
from shira_core.plan import Entry

UNET, TEXT = "model.diffusion_model.", "conditioner.embedders.1.model."
LAYER = "clip_g.transformer.text_model.encoder.layers.0.self_attn."
SHAPES: dict[str, tuple[int, ...]] = {
    UNET + "input_blocks.0.0.weight": (8, 4, 3, 3),
    UNET + "input_blocks.1.1.proj_in.weight": (12, 8),
    UNET + "out.0.bias": (8,),
    TEXT + "transformer.resblocks.0.attn.in_proj_weight": (24, 8),
    TEXT + "transformer.resblocks.0.attn.out_proj.weight": (8, 8),
    TEXT + "token_embedding.weight": (6, 8),
}
HELD = {
    UNET + "input_blocks.0.0.weight": "diffusion_model.input_blocks.0.0.weight",
    UNET + "input_blocks.1.1.proj_in.weight": "diffusion_model.input_blocks.1.1.proj_in.weight",
    UNET + "out.0.bias": "diffusion_model.out.0.bias",
    TEXT + "transformer.resblocks.0.attn.out_proj.weight": LAYER + "out_proj.weight",
    TEXT + "token_embedding.weight": (
        "clip_g.transformer.text_model.embeddings.token_embedding.wrapped.weight"
    ),
}

DENOISER = [name for name in HELD.values() if name.startswith("diffusion_model.")]
STEPS = 4


@dataclass
class Objects:
    """What the forks keep of a checkpoint."""

    unet: Any
    clip: Any

    def shallow_copy(self) -> Objects:
        return copy.copy(self)


class Setting:
    """A fork with a model, and what it does for a picture."""

    def __init__(self, host: Patched) -> None:
        self.host = host
        self.unet, self.encoder = modules()
        if host is forge.HOST:
            first = Objects(ModelPatcher(self.unet), CLIP(self.encoder))
        else:
            first = Objects(ReForgePatcher(self.unet), ReForgeClip(self.encoder))
        self.model = Model(first)
        self.base = self.weights()

    def networks(self, lora: Mapping[str, Tensor]) -> None:
        """Have the built-in Lora start afresh with patches of the denoiser."""
        model, patches = self.model, {key: ("diff", (value,)) for key, value in lora.items()}
        model.forge_objects.unet = model.forge_objects_original.unet.clone()
        model.forge_objects.clip = model.forge_objects_original.clip
        if self.host is forge.HOST:
            model.forge_objects.unet.add_patches(filename=f"lora {id(lora)}", patches=patches)
        else:
            model.forge_objects.unet.add_patches(patches)
        model.forge_objects_after_applying_lora = model.forge_objects.shallow_copy()

    def draw(self, stack: tuple[Timed, ...], lora: Mapping[str, Tensor] | None = None) -> None:
        """Activate networks and load the models, as both passes of a picture do."""
        model = self.model
        model.forge_objects = model.forge_objects_original.shallow_copy()
        if lora is not None:
            self.networks(lora)
        for _ in range(2):
            self.host.wear(None, stack)
            self.load()
            model.forge_objects = model.forge_objects_after_applying_lora.shallow_copy()
            self.load()

    def run(self, see: Callable[[int], None]) -> Any:
        """Sample as the host does, once the models are loaded; return the job."""
        p = SimpleNamespace(extra_generation_params={}, comment=lambda text: None)
        denoiser = SimpleNamespace(step=0, total_steps=STEPS, p=p)

        def sample() -> None:
            for denoiser.step in range(STEPS):
                script_callbacks.cfg_denoiser_callback(
                    script_callbacks.CFGDenoiserParams(
                        None, None, None, denoiser.step, STEPS, None, None, denoiser
                    )
                )
                see(denoiser.step)

        sd_samplers_common.Sampler().launch_sampling(STEPS, sample)
        return p

    def load(self) -> None:
        objects = self.model.forge_objects
        for patcher in (objects.unet, objects.clip.patcher):
            if self.host is forge.HOST:
                patcher.refresh_loras()
            else:
                patcher.patch_model()

    def weights(self) -> dict[str, Tensor]:
        """Return what the modules hold, by their names."""
        both = (*self.unet.named_parameters(), *self.encoder.named_parameters())
        return {name: weight.detach().clone() for name, weight in both}

    def expected(
        self, stack: tuple[Timed, ...], lora: Mapping[str, Tensor], share: float
    ) -> dict[str, Tensor]:
        """Return what the modules must hold, by dense sums; fused projections are cut.

        What is written in a run goes onto what the host has rounded.
        """
        timed = not all(each.whole for each in stack)
        total = {name: torch.zeros_like(weight).float() for name, weight in self.base.items()}
        for name, value in lora.items():
            merged = self.base[name].float() + value
            total[name] += (merged.half() if timed else merged) - self.base[name]
        for each in stack:
            for name, delta in each.entry.adapter.weights.items():  # type: ignore[attr-defined]
                on = not name.startswith(UNET) or each.start <= share < each.stop
                dense = delta.dense().float() * each.entry.alpha.at(name) * on
                if name in HELD:
                    total[HELD[name]] += dense
                else:
                    for part, rows in zip("qkv", dense.chunk(3), strict=True):
                        total[f"{LAYER}{part}_proj.weight"] += rows
        return {
            name: (weight.float() + total[name]).to(weight.dtype)
            for name, weight in self.base.items()
        }

    def check(
        self,
        stack: tuple[Timed, ...] = (),
        lora: Mapping[str, Tensor] | None = None,
        share: float = 0.0,
    ) -> None:
        now, wanted = self.weights(), self.expected(stack, lora or {}, share)
        assert [name for name in now if not now[name].equal(wanted[name])] == []


class Model:
    """A checkpoint."""

    def __init__(self, first: Objects) -> None:
        self.forge_objects = first
        self.forge_objects_original = first.shallow_copy()
        self.forge_objects_after_applying_lora = first.shallow_copy()


class ReForgeClip:
    """reForge's text encoders."""

    def __init__(self, model: nn.Module, patcher: Any = None) -> None:
        self.cond_stage_model = model
        self.patcher = patcher or ReForgePatcher(model)

    def clone(self) -> ReForgeClip:
        return ReForgeClip(self.cond_stage_model, self.patcher.clone())

    def add_patches(self, *given: Any) -> Any:
        return self.patcher.add_patches(*given)


def modules() -> tuple[nn.Module, nn.Module]:
    """Return a denoiser and text encoders with random fp16 weights."""
    attention = {
        LAYER + f"{part}_proj": nn.Linear(8, 8, bias=False) for part in ("q", "k", "v", "out")
    }
    embedding = "clip_g.transformer.text_model.embeddings.token_embedding"
    found = (
        tree(
            {
                "diffusion_model.input_blocks.0.0": nn.Conv2d(4, 8, 3),
                "diffusion_model.input_blocks.1.1.proj_in": nn.Linear(8, 12),
                "diffusion_model.out.0": nn.GroupNorm(2, 8),
            }
        ),
        tree({**attention, embedding: Wrapper(nn.Embedding(6, 8))}),
    )
    generator = torch.Generator().manual_seed(0)
    for module in found:
        module.half()
        for weight in module.parameters():
            weight.requires_grad_(False).copy_(torch.randn(weight.shape, generator=generator))
    return found


@pytest.fixture(params=[forge.HOST, reforge.HOST], ids=["forge", "reforge"], name="setting")
def forks_setting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Setting:
    made = Setting(request.param)
    monkeypatch.setattr(shared, "sd_model", made.model)
    script_callbacks.registered.clear()
    monkeypatch.setattr(patches, "originals", defaultdict(dict))  # each host wraps it for itself
    sampler = sd_samplers_common.Sampler
    monkeypatch.setattr(sampler, "launch_sampling", sampler.launch_sampling)
    made.host.install()
    return made


def worn(seed: int, alpha: float, start: float = 0.0, stop: float = 1.0) -> Timed:
    alphas = shira.Alpha(alpha, {"te": alpha / 2})
    return Timed(Entry(exact(SHAPES, seed, 0.3), alphas), start, stop)

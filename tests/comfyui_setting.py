"""What the scenarios of the node pack share: a tiny model in the stubs or in a real ComfyUI.

Imported when `comfy` can be; what is wanted of a picture comes from dense arithmetic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

STEPS = torch.tensor([14.0, 6.0, 2.0, 0.5, 0.0])


class Tiny(nn.Module):
    """A model for the stubs: names as ComfyUI has them, some layouts that are special."""

    def __init__(self) -> None:
        super().__init__()
        blocks = nn.ModuleDict({"to_q": nn.Linear(12, 16), "to_out": nn.Linear(16, 12, bias=False)})
        conv = nn.Conv2d(4, 12, 3, padding=1)
        inside = {"input_blocks": conv, "middle_block": blocks, "out": nn.Conv2d(12, 4, 1)}
        self.diffusion_model = nn.ModuleDict(inside)
        self.model_sampling = Sampling()

    def apply_model(self, x: Tensor, t: Tensor) -> Tensor:
        unet = self.diffusion_model
        x = x.to(unet["out"].weight.dtype)
        hidden = torch.tanh(unet["input_blocks"](x)).movedim(1, -1)
        middle = unet["middle_block"]
        hidden = hidden + middle["to_out"](torch.tanh(middle["to_q"](hidden)))
        return unet["out"](hidden.movedim(-1, 1)).float() * (1 + t)


class Sampling:
    """Percent of a run to noise level, falling."""

    def percent_to_sigma(self, percent: float) -> float:
        return 15.0 * (1.0 - percent)


class StubHost:
    def model(self, dtype: torch.dtype = torch.float32) -> Any:
        from comfy.model_patcher import ModelPatcher

        with torch.inference_mode(False), torch.random.fork_rng():
            torch.manual_seed(0)
            module = Tiny().requires_grad_(False).to(dtype)
        module.diffusion_model["out"].to(memory_format=torch.channels_last)
        return ModelPatcher(module, torch.device("cpu"), torch.device("cpu"))

    def draw(self, patcher: Any, watch: Callable[[], None] | None = None) -> Tensor:
        from comfy.samplers import CFGGuider

        guider = CFGGuider(patcher)
        original = guider.predict_noise
        if watch:
            guider.predict_noise = lambda *given: (watch(), original(*given))[1]
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        return guider.sample(noise, None, None, STEPS)


class RealHost:
    def model(self, dtype: torch.dtype = torch.float32) -> Any:
        from comfy import model_management, model_patcher, supported_models

        shape = {"model_channels": 32, "context_dim": 48, "in_channels": 4, "out_channels": 4}
        depth = {"transformer_depth": [1, 1], "transformer_depth_output": [1] * 4}
        kind = {"use_spatial_transformer": True, "legacy": False, "image_size": 32}
        size = {"num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth_middle": 1}
        none = {"adm_in_channels": None, "use_temporal_attention": False}
        linear = {"use_linear_in_transformer": False}
        config = supported_models.SD15({**shape, **depth, **kind, **size, **none, **linear})
        config.set_inference_dtype(dtype, None if dtype == torch.float32 else torch.float32)
        model = config.get_model({}, "", device="cpu")
        generator = torch.Generator().manual_seed(0)
        for name, parameter in model.named_parameters():
            scale, shift = (0.0, 1.0) if parameter.ndim == 1 and "norm" in name else (0.1, 0.0)
            value = torch.randn(parameter.shape, generator=generator) * scale + shift
            parameter.copy_(value.to(dtype))
        cpu = torch.device("cpu")
        return model_patcher.ModelPatcher(model, model_management.get_torch_device(), cpu)

    def draw(
        self, patcher: Any, watch: Callable[[], None] | None = None, hooks: Any = None
    ) -> Tensor:
        import comfy.hooks
        import comfy.samplers

        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(1, 4, 8, 8, generator=generator)
        condition = [[torch.randn(1, 77, 48, generator=generator), {}]]
        if hooks:
            condition = comfy.hooks.set_hooks_for_conditioning(condition, hooks)
        guider = comfy.samplers.CFGGuider(patcher)
        guider.set_conds(condition, condition)
        called = (lambda *given: watch()) if watch else None
        sampler = comfy.samplers.sampler_object("euler")
        return guider.sample(noise, torch.zeros_like(noise), sampler, STEPS, callback=called)


class Setting:
    """A model, two adapters in files and what ComfyUI calls."""

    def __init__(self, host: Any, pack: Any, folder: Path) -> None:
        self.host, self.nodes, self.folder = host, pack.NODE_CLASS_MAPPINGS, folder
        self.model = host.model()
        weights = self.model.model.state_dict()
        self.names = [k for k, v in weights.items() if k.startswith("diffusion_") and v.ndim > 1]
        self.before = digest(self.model.model)
        self.base = host.draw(self.model)
        shapes = {f"model.{key}": tuple(weights[key].shape) for key in self.names}
        self.first, self.second = random_adapter(shapes, 1), random_adapter(shapes, 2)
        self.first.save(folder / "first.shira")
        self.second.save(folder / "second.shira")

    def load(self, model: Any, name: str, alpha: float, **given: Any) -> Any:
        return self.nodes["SHiRALoader"]().load(model, name, alpha, alpha, **given)["result"][0]

    def error(self, name: str) -> str:
        """Return what applying a file to the model raises."""
        return error_of(lambda: self.load(self.model, name, 1.0))

    def way(self, name: str, alpha: float, model: Any = None) -> str:
        node = self.nodes["SHiRALoader"]()
        return node.load(model or self.model, name, alpha, alpha)["ui"]["text"][0]

    def fuse(self, text: str, mode: str = "sum", model: Any = None) -> tuple[Any, ...]:
        return self.nodes["SHiRAStack"]().fuse(text, mode, model=model)["result"]

    def dense(
        self, *parts: tuple[Any, float], others: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Draw with a model whose weights were computed densely; others: more to add."""
        made = self.host.model()
        weights = made.model.state_dict()
        for key in self.names:
            total = sum(alpha * adapter.weights[f"model.{key}"].dense() for adapter, alpha in parts)
            weights[key].copy_(weights[key] + (others or {}).get(key, 0.0) + total)
        return self.host.draw(made)

    def clean(self) -> bool:
        """Tell whether the base is what it was: its weights, and what it draws."""
        drawn = torch.equal(self.host.draw(self.model), self.base)
        return drawn and digest(self.model.model) == self.before


def by_patches(patcher: Any) -> Any:
    """Return a clone that the host patches itself."""
    made = patcher.clone()
    for kind in ("outer_sample", "prepare_sampling", "predict_noise"):
        made.remove_wrappers_with_key(kind, "shira")
    return made


def bare(adapter: Any) -> Any:
    """Return an adapter with the names of a file that holds a denoiser alone."""
    import shira_core as shira

    start = "model.diffusion_model."
    named = {name.removeprefix(start): adapter.weights[name] for name in adapter.weights}
    return shira.Adapter(adapter.header, shira.MemoryWeights(named))


def random_adapter(shapes: dict[str, tuple[int, ...]], seed: int) -> Any:
    import shira_core as shira

    generator = torch.Generator().manual_seed(seed)
    weights = shira.MemoryWeights()
    for name, shape in shapes.items():
        mask = torch.rand(shape, generator=generator).reshape(-1) < 0.1
        positions = mask.nonzero().reshape(-1)
        values = (torch.randn(len(positions), generator=generator) * 0.2).half()
        weights[name] = shira.SparseDelta(shira.Mask(shape, positions), values)
    header = shira.Header(title=f"style {seed}", triggers=(f"word{seed}",))
    return shira.Adapter(header, weights)


def digest(module: nn.Module) -> str:
    found = hashlib.sha256()
    for _, tensor in sorted(module.state_dict().items()):
        found.update(
            tensor.detach()
            .cpu()
            .reshape(-1)
            .clone(memory_format=torch.contiguous_format)
            .view(torch.uint8)
            .numpy()
            .tobytes()
        )
    return found.hexdigest()


def error_of(action: Callable[[], Any]) -> str:
    """Return class and message of what an action raises."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def near(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)

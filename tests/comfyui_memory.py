"""Scenarios of how a host keeps its weights, for `comfyui_scenarios.py`."""

from __future__ import annotations

from typing import Any

import torch
from comfyui_encoders import TEXT
from comfyui_setting import Setting, bare, by_patches, near

LOW = 300_000  # bytes that a tiny model may take, so that it is loaded in part
Facts = dict[str, Any]


def kinds_of_weights(s: Setting) -> Facts:
    """Other dtypes, names without a prefix, and weights that the host converts itself."""
    draw = s.host.draw
    bare(s.first).save(s.folder / "bare.shira")
    whole = draw(s.load(s.model, "first.shira", 0.8))
    facts: Facts = {
        "names of a denoiser alone": torch.equal(draw(s.load(s.model, "bare.shira", 0.8)), whole)
    }
    for dtype in (torch.bfloat16, torch.float16):
        model = s.host.model(dtype)
        base, adapted = draw(model), s.load(model, "first.shira", 0.8)
        facts[f"{dtype} as patches"] = torch.equal(draw(adapted), draw(by_patches(adapted)))
        facts[f"{dtype} has an effect"] = not near(draw(adapted), base)
        facts[f"{dtype} is clean"] = torch.equal(draw(model), base)
    model = s.host.model()
    layer = model.get_model_object(s.names[0].removesuffix(".weight"))
    layer.convert_weight = lambda weight, **_: weight
    facts["a host that converts"] = "quantised" in s.way("first.shira", 0.8, model)
    facts["is patched"] = torch.equal(draw(s.load(model, "first.shira", 0.8)), whole)
    facts["the base is clean"] = s.clean()
    return facts


def on_a_real_host(s: Setting) -> Facts:
    """What the stubs do not have: parts of a model out of memory, hooks in a run, text encoders."""
    import comfy.hooks
    import comfy.model_management
    import comfy.sdxl_clip

    adapted, cpu = s.load(s.model, "first.shira", 0.8), torch.device("cpu")
    drawn, low = s.host.draw(adapted), by_patches(adapted)
    comfy.model_management.unload_all_models()
    low.partially_load(cpu, extra_memory=LOW)
    facts: Facts = {
        "loaded in part": low.lowvram_patch_counter() > 0,
        "the reason is told": "memory is low" in s.way("first.shira", 0.8),
    }
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 48)
    unet = low.model.diffusion_model
    in_part = unet(x, torch.tensor([500.0]), context=context)
    low.detach()
    whole = by_patches(adapted)
    whole.partially_load(cpu, extra_memory=1e32)
    facts["in part as whole"] = torch.equal(
        in_part, unet(x, torch.tensor([500.0]), context=context)
    )
    whole.detach()
    facts["clean after both"] = s.clean()
    group = s.nodes["SHiRAHook"]().hook("first.shira", 0.8, 0.8)[0]
    facts["hooks draw the same"] = torch.equal(s.host.draw(s.model, hooks=group), drawn)
    both = s.host.draw(s.load(s.model, "second.shira", 0.5), hooks=group)
    facts["hooks on a stack"] = near(both, s.dense((s.first, 0.8), (s.second, 0.5)))
    facts["clean after hooks"] = s.clean()
    encoder = comfy.sdxl_clip.SDXLClipModel("meta", torch.float32, model_options={})
    small = s.host.model(torch.float8_e4m3fn)
    plain, worn = s.host.draw(small), s.load(small, "first.shira", 2.0)
    facts["fp8 is patched"] = "float8" in s.way("first.shira", 2.0, small)
    facts["fp8 has an effect"] = not near(s.host.draw(worn), plain)
    facts["fp8 is clean"] = torch.equal(s.host.draw(small), plain)
    facts["names of text encoders"] = set(TEXT) <= set(encoder.state_dict())
    return facts

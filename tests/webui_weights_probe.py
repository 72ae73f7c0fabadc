"""A script for the tests in a real WebUI: what its model holds now, and jobs that fail.

GET /test/weights tells a hash of each weight. A job whose prompt has EXPLODE fails in its sampling.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from modules import script_callbacks, scripts, shared

EXPLODE = "explode now"


def module() -> Any:
    """Return what holds the weights: Forge keeps them in its model patchers."""
    model = shared.sd_model
    objects = getattr(model, "forge_objects", None)
    if objects is None:
        return model
    return torch.nn.ModuleList([objects.unet.model, objects.clip.cond_stage_model])


def weights() -> dict[str, str]:
    """Return the hash of each weight by its name."""
    found = {}
    for name, weight in module().named_parameters():
        data = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found[name] = hashlib.sha256(data.numpy().data).hexdigest()[:16]
    return found


class Probe(scripts.Script):
    def title(self) -> str:
        return "weights probe"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def process_before_every_sampling(self, p: Any, *args: Any, **given: Any) -> None:
        if EXPLODE in p.prompt:
            p.sampler.sample = explode


def explode(*args: Any, **given: Any) -> Any:
    raise RuntimeError(EXPLODE)


def add_routes(_demo: Any, app: Any) -> None:
    app.get("/test/weights")(weights)


script_callbacks.on_app_started(add_routes)

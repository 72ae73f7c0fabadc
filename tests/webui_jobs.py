"""A model in the stubs of AUTOMATIC1111, jobs that draw with it, and what it held in each step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adapters import random_adapter
from webui_model import KINDS, UNET, adapters, build, check_bits, held
from webui_stubs import extra_networks, networks, processing, script_callbacks, sd_models, shared

from a1111_extension import job, network, paths
from a1111_extension.stack import Stack, of_tags

KIND = KINDS["fp16"]
STEPS = 4
FIRST = "<shira:first:0.75>"
SECOND = "<shira:sub/second:-1.5>"


class Setting:
    """A model with a file of adapters, and what it held in each step of a job."""

    def __init__(self, folder: Path) -> None:
        first, second, _ = adapters()
        first.save(folder / "first.shira")
        second.save(folder / "sub" / "second.shira")
        random_adapter({UNET + "attic.weight": (4, 4)}, 0).save(folder / "other.shira")
        self.folder = folder
        self.model: Any = build(KIND)
        self.plain = sd_models.CheckpointInfo("plain")
        self.refiner = sd_models.CheckpointInfo("refiner")
        sd_models.files["plain"] = dict(self.model.state_dict())
        sd_models.files["refiner"] = dict(build(KIND, seed=5).state_dict())
        sd_models.files = {
            name: {key: value.clone() for key, value in weights.items()}
            for name, weights in sd_models.files.items()
        }
        self.model.sd_checkpoint_info = self.plain
        self.base = held(self.model)
        self.seen: list[dict[str, Any]] = []

    def draw(
        self, prompt: str, fail: int | None = None, **given: Any
    ) -> processing.StableDiffusionProcessing:
        """Run a job; the model's forward passes bring the built-in Lora's networks in."""

        def see(p: Any, step: int) -> None:
            networks.forward(self.model)
            self.seen.append(held(self.model))
            if len(self.seen) - 1 == fail:
                raise RuntimeError("stopped")

        self.seen.clear()
        p = processing.StableDiffusionProcessing(prompt, see, steps=STEPS, **given)
        processing.process_images_inner(p)
        return p

    def stack(self, prompt: str) -> Stack:
        """Return the stack of a prompt's tags."""
        return of_tags(extra_networks.parse_prompts([prompt])[1]["shira"])


@pytest.fixture(name="setting")
def jobs_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setting]:
    monkeypatch.setattr(paths, "HOME", tmp_path)
    networks.loaded_networks.clear()
    script_callbacks.registered.clear()
    extra_networks.extra_network_registry.clear()
    (tmp_path / "sub").mkdir()
    made = Setting(tmp_path)
    monkeypatch.setattr(shared, "sd_model", made.model)
    for _ in range(2):  # the WebUI loads its scripts again when its page is reloaded
        script_callbacks.registered.clear()
        job.install()
        network.register()
    yield made
    check_bits(held(made.model), made.base)
    assert len(script_callbacks.registered["cfg_denoiser"]) == 1

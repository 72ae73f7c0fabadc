"""A job, as far as networks and models are concerned."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from modules import extra_networks, script_callbacks, sd_models


class StableDiffusionProcessing:
    """seen: called before each step, with the job and the step."""

    def __init__(
        self,
        prompt: str,
        seen: Callable[[Any, int], None],
        *,
        steps: int = 4,
        hr_prompt: str | None = None,
        refiner_checkpoint_info: Any = None,
        scripts: Any = None,
    ) -> None:
        self.prompt, self.seen, self.steps, self.hr_prompt = prompt, seen, steps, hr_prompt
        self.refiner_checkpoint_info, self.scripts = refiner_checkpoint_info, scripts
        self.extra_generation_params: dict[str, Any] = {}
        self.comments: dict[str, int] = {}
        self.is_hr_pass = False
        self.prompts: list[str] = []
        self.extra_network_data: Any = None
        self.hr_extra_network_data: Any = None

    def comment(self, text: str) -> None:
        self.comments[text] = 1

    def parse_extra_network_prompts(self) -> None:
        self.prompts, self.extra_network_data = extra_networks.parse_prompts(self.prompts)
        if self.hr_prompt is not None:
            _, self.hr_extra_network_data = extra_networks.parse_prompts([self.hr_prompt])


def process_images_inner(p: StableDiffusionProcessing) -> None:
    p.prompts = [p.prompt]
    if p.scripts is not None:
        p.scripts.before_process_batch(p, batch_number=0, prompts=p.prompts)
    p.parse_extra_network_prompts()
    extra_networks.activate(p, p.extra_network_data)
    if p.scripts is not None:
        p.scripts.process_batch(p, batch_number=0, prompts=p.prompts)
    _sample(p)
    if p.hr_extra_network_data is not None:
        p.is_hr_pass = True
        extra_networks.activate(p, p.hr_extra_network_data)
        _sample(p)


def _sample(p: StableDiffusionProcessing) -> None:
    denoiser = SimpleNamespace(step=0, total_steps=p.steps, p=p)
    while denoiser.step < denoiser.total_steps:
        if p.refiner_checkpoint_info is not None and 2 * denoiser.step >= p.steps:
            sd_models.reload_model_weights(info=p.refiner_checkpoint_info)
        script_callbacks.cfg_denoiser_callback(
            script_callbacks.CFGDenoiserParams(
                None, None, None, denoiser.step, p.steps, None, None, denoiser
            )
        )
        p.seen(p, denoiser.step)
        denoiser.step += 1

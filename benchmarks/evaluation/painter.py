"""Draws what is asked for with the base and deltas in it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import paths  # noqa: F401
import torch
from diffusers import DPMSolverMultistepScheduler
from graphs import Replayed
from models import LATENT, SCHEDULER
from tasks import BATCH_OF_PICTURES, Asked
from torch import Tensor
from world import World

GUIDANCE = 2.0
Deltas = Mapping[str, Tensor]


class Painter:
    """Draws 48 pictures at a time with DPM-Solver++ and guidance 2."""

    def __init__(self, world: World, steps: int) -> None:
        self._world, self._steps = world, steps
        self._unet = copy.deepcopy(world.unet)
        self._weights = dict(self._unet.named_parameters())
        self._base = dict(world.unet.named_parameters())
        self._changed: set[str] = set()
        both = 2 * BATCH_OF_PICTURES
        self._latents = torch.zeros(both, 4, LATENT, LATENT, device=world.device)
        self._time = torch.zeros((), dtype=torch.int64, device=world.device)
        self._contexts = world.contexts([""]).repeat(both, 1, 1)
        self._guess = torch.zeros_like(self._latents)
        self._step = Replayed(self._denoise, world.device)

    def put(self, deltas: Sequence[tuple[Deltas, float]]) -> None:
        """Make the weights W + sum(alpha * delta)."""
        with torch.no_grad():
            for name in self._changed:
                self._weights[name].copy_(self._base[name])
            for values, alpha in deltas:
                for name, delta in values.items():
                    self._weights[name].add_(delta, alpha=alpha)
        self._changed = {name for values, _ in deltas for name in values}

    def draw(self, wanted: Sequence[Asked]) -> Tensor:
        """Return uint8 pictures (n, 3, 128, 128) of the weights as they are."""
        starts = range(0, len(wanted), BATCH_OF_PICTURES)
        return torch.cat([self._draw(wanted[at : at + BATCH_OF_PICTURES]) for at in starts])

    @torch.no_grad()
    def _draw(self, wanted: Sequence[Asked]) -> Tensor:
        count, device = len(wanted), self._world.device
        prompts = [each.prompt for each in wanted]
        self._contexts[BATCH_OF_PICTURES:][:count] = self._world.contexts(prompts)
        x = torch.zeros(BATCH_OF_PICTURES, 4, LATENT, LATENT, device=device)
        x[:count] = torch.stack([noise(each) for each in wanted]).to(device)
        scheduler = DPMSolverMultistepScheduler.from_config(SCHEDULER)
        scheduler.set_timesteps(self._steps, device=device)
        for time in scheduler.timesteps:
            self._latents.copy_(torch.cat([x, x]))
            self._time.copy_(time)
            self._step.follow()
            self._step()
            self._step.wait()
            plain, guided = self._guess.chunk(2)
            x = scheduler.step(plain + GUIDANCE * (guided - plain), time, x, return_dict=False)[0]
        return self._world.decoded(x[:count])

    @torch.no_grad()
    def _denoise(self) -> None:
        guess = self._unet(self._latents, self._time, self._contexts, return_dict=False)[0]
        self._guess.copy_(guess)


def noise(wanted: Asked) -> Tensor:
    """Return the noise that a picture starts from, (4, 16, 16)."""
    generator = torch.Generator().manual_seed(wanted.seed)
    return torch.randn(4, LATENT, LATENT, generator=generator)

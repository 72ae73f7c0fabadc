"""Training of adapters: several at a time, each a graph of whole steps on a GPU."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from graphs import Replayed
from methods import METHODS, Learned, Setting, Spec, Trained
from models import LATENT
from tasks import lesson
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from world import World

BATCH, WARM_UP = 16, 20
UNTOLD = 0.1  # share of pictures that are shown without their prompt


@dataclass(frozen=True)
class Draws:
    """What every step sees: pictures, texts, timesteps and noise, the same for every method.

    picture, text, time: int64 (steps, batch). noise: (steps, batch, 4, 16, 16).
    """

    latents: Tensor
    contexts: Tensor
    picture: Tensor
    text: Tensor
    time: Tensor
    noise: Tensor


def draws(world: World, task: str, seed: int, steps: int) -> Draws:
    """Draw all steps of a run from its task and seed. Each picture is seen equally often."""
    pictures = lesson(task)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{task}/{seed}".encode()))
    rounds = math.ceil(steps * BATCH / len(pictures))
    order = [torch.randperm(len(pictures), generator=generator) for _ in range(rounds)]
    picture = torch.cat(order)[: steps * BATCH].view(steps, BATCH)
    untold = torch.rand(steps, BATCH, generator=generator) < UNTOLD
    time = torch.randint(1000, (steps, BATCH), generator=generator)
    noise = torch.randn(steps, BATCH, 4, LATENT, LATENT, generator=generator)
    text = picture.masked_fill(untold, len(pictures))
    moved = (part.to(world.device) for part in (picture, text, time, noise))
    contexts = world.contexts([*(each.prompt for each in pictures), ""])
    return Draws(world.latents(pictures), contexts, *moved)


class Lesson:
    """The training of one adapter: AdamW without decay, cosine to zero, plain noise loss."""

    def __init__(
        self, world: World, spec: Spec, steps: int, shuffled: bool, stack: ExitStack
    ) -> None:
        self._world = world
        self._draws = draws(world, spec.task, spec.seed, steps)
        if shuffled:
            self._draws = replace(self._draws, latents=self._draws.latents.roll(1, 0))
        calibration = draws(world, spec.task, spec.seed + 1000, 64)

        def loss(unet: nn.Module, number: int) -> Tensor:
            return self._loss(unet, calibration, torch.tensor([number], device=world.device))

        setting = Setting(world.unet, spec, loss)
        self._trained: Trained = stack.enter_context(METHODS[spec.method](setting))
        self._rates = torch.tensor(
            [spec.rate * factor(number, steps) for number in range(steps)], device=world.device
        )
        self._rate = torch.zeros((), device=world.device)
        self._number = torch.zeros(1, dtype=torch.int64, device=world.device)
        cuda = world.device.type == "cuda"
        self._optimizer = torch.optim.AdamW(
            self._trained.parameters, lr=self._rate, weight_decay=0.0, capturable=cuda
        )
        self.step = Replayed(self._step, world.device)

    def learned(self) -> Learned:
        """Return what has been learned."""
        self.step.wait()
        return self._trained.learned()

    def _step(self) -> None:
        self._rate.copy_(self._rates.index_select(0, self._number)[0])
        self._trained.write()
        self._loss(self._trained.unet, self._draws, self._number).backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._number += 1

    def _loss(self, unet: nn.Module, drawn: Draws, number: Tensor) -> Tensor:
        """Return the mean squared error of the predicted noise in a batch; number: (1,)."""
        picture, text, time, noise = (
            part.index_select(0, number)[0]
            for part in (drawn.picture, drawn.text, drawn.time, drawn.noise)
        )
        signal = self._world.signal[time].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * drawn.latents[picture] + (1 - signal).sqrt() * noise
        guess = unet(noisy, time, drawn.contexts[text], return_dict=False)[0]
        return mse_loss(guess, noise)


def factor(number: int, steps: int) -> float:
    """Return the share of the peak learning rate at a step."""
    warm = min(1.0, (number + 1) / WARM_UP)
    return warm * 0.5 * (1 + math.cos(math.pi * number / steps))


def train(world: World, specs: Sequence[Spec], steps: int, shuffled: bool = False) -> list[Learned]:
    """Train adapters side by side; return what each has learned.

    shuffled: every picture is shown with the prompt of another one.
    """
    with ExitStack() as stack:
        lessons = [Lesson(world, spec, steps, shuffled, stack) for spec in specs]
        for _ in range(steps):
            for each in lessons:
                each.step()
        return [each.learned() for each in lessons]

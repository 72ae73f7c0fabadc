"""The loss of a batch: what the UNet says of noised pictures, against what it should say."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import objective
from .cache import Batch
from .config import Config
from .opening import Opened

NOISES = 4  # levels of noise at which each picture held out is asked


@dataclass(frozen=True)
class Losses:
    """The losses of a run. Each number of a batch alone decides pictures, noise and timesteps."""

    config: Config
    opened: Opened

    def training(self, number: int) -> Tensor:
        """Return the loss of batch 0, 1, ... of the pictures to learn."""
        batch = self.opened.cache.batch(number, self.config.seed)
        source = objective.generator(self.config.seed, "batch", number)
        times = objective.timesteps(len(batch.latents), len(self.opened.signal), source)
        return self._of(batch, times, source, self.config.min_snr_gamma)

    def calibration(self, number: int) -> Tensor:
        """Return the loss of a batch that only the masks grad and snip see."""
        return self.training(-1 - number)

    @torch.no_grad()
    def validation(self) -> float:
        """Return the unweighted mean loss of the pictures held out.

        Each picture is asked at NOISES levels of noise, always the same ones of the same noise.
        """
        held, total = self.opened.held_out, 0.0
        if held is None:
            raise ValueError("no pictures are held out")
        count = NOISES * len(held.views)
        for number in range(count):
            source = objective.generator(self.config.seed, "validation", number)
            level = number // len(held.views)
            times = objective.timesteps(NOISES, len(self.opened.signal), source)[level, None]
            total += self._of(held.batch(number, self.config.seed), times, source, 0.0).item()
        return total / count

    def names(self, number: int) -> tuple[str, ...]:
        """Return the files of a batch's pictures."""
        return self.opened.cache.batch(number, self.config.seed).names

    def _of(self, batch: Batch, times: Tensor, source: torch.Generator, gamma: float) -> Tensor:
        config, opened = self.config, self.opened
        noise = objective.noise_like(batch.latents, source, config.noise_offset)
        latents, noise, times = (each.to(opened.device) for each in (batch.latents, noise, times))
        level, prediction = opened.signal[times], opened.base.prediction_type
        weights = objective.loss_weights(level, gamma, prediction, config.debiased)
        return objective.weighted_loss(
            self._predicted(batch, objective.add_noise(latents, noise, level), times),
            objective.target(latents, noise, level, prediction),
            weights * batch.weights.to(opened.device),
            None if batch.mask is None else batch.mask.to(opened.device),
        )

    def _predicted(self, batch: Batch, noised: Tensor, times: Tensor) -> Tensor:
        """Run the text encoders where they are trained, and the UNet."""
        opened = self.opened
        with opened.arithmetic.context(opened.device):
            texts = batch.texts.map(lambda tensor: tensor.to(opened.device))
            if opened.base.text_encoders:
                texts = opened.base.read(list(batch.prompts))
            return opened.base.denoise(
                opened.arithmetic.inputs(noised), times, texts, batch.sizes.to(opened.device)
            )

"""The loss of a batch: what the UNet says of noised pictures, against what it should say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import objective
from .cache import Batch
from .config import Config
from .opening import Opened

NOISES = 4  # levels of noise at which each picture held out is asked


@dataclass(frozen=True)
class Inputs:
    """All that a loss is computed from. noise: as the latents. times: int64 (b,)."""

    batch: Batch
    noise: Tensor
    times: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """Return the inputs with every tensor changed, such as moved to a device."""
        return Inputs(self.batch.map(change), change(self.noise), change(self.times))

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, always in one order."""
        found: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self.map(note)
        return found

    @property
    def shape(self) -> tuple[torch.Size, ...]:
        """Equal for inputs of which the same operations are computed."""
        return tuple(tensor.shape for tensor in self.tensors)


@dataclass(frozen=True)
class Losses:
    """The losses of a run. Each number of a batch alone decides pictures, noise and timesteps."""

    config: Config
    opened: Opened

    def training(self, number: int) -> Tensor:
        """Return the loss of batch 0, 1, ... of the pictures to learn."""
        return self.of(self.inputs(number))

    def inputs(self, number: int) -> Inputs:
        """Return what the loss of batch 0, 1, ... is computed from, on the CPU."""
        batch = self.opened.cache.batch(number, self.config.seed)
        source = objective.generator(self.config.seed, "batch", number)
        times = objective.timesteps(len(batch.latents), len(self.opened.signal), source)
        return Inputs(batch, self._noise(batch, source), times)

    def of(self, inputs: Inputs) -> Tensor:
        """Return the loss of inputs, which may be on any device."""
        return self._of(inputs, self.config.min_snr_gamma)

    def calibration(self, number: int) -> Tensor:
        """Return the loss of a batch that only masks which are measured see."""
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
            batch = held.batch(number, self.config.seed)
            total += self._of(Inputs(batch, self._noise(batch, source), times), 0.0).item()
        return total / count

    def names(self, number: int) -> tuple[str, ...]:
        """Return the files of a batch's pictures."""
        return self.opened.cache.batch(number, self.config.seed).names

    def _noise(self, batch: Batch, source: torch.Generator) -> Tensor:
        return objective.noise_like(batch.latents, source, self.config.noise_offset)

    def _of(self, inputs: Inputs, gamma: float) -> Tensor:
        config, opened = self.config, self.opened
        inputs = inputs.map(lambda tensor: tensor.to(opened.device))
        batch, latents, noise, times = (
            inputs.batch,
            inputs.batch.latents,
            inputs.noise,
            inputs.times,
        )
        level, prediction = opened.signal[times], opened.base.prediction_type
        weights = objective.loss_weights(level, gamma, prediction, config.debiased)
        return objective.weighted_loss(
            self._predicted(batch, objective.add_noise(latents, noise, level), times),
            objective.target(latents, noise, level, prediction),
            weights * batch.weights,
            batch.mask,
        )

    def _predicted(self, batch: Batch, noised: Tensor, times: Tensor) -> Tensor:
        """Run the text encoders where they are trained, and the UNet."""
        opened = self.opened
        with opened.arithmetic.context(opened.device):
            texts = batch.texts
            if opened.base.text_encoders:
                texts = opened.base.read(list(batch.prompts))
            return opened.base.denoise(opened.arithmetic.inputs(noised), times, texts, batch.sizes)

"""What a step trains on, as pure functions of (seed, step): noise, timesteps, rate, loss.

Nothing here has a state, so a resumed run continues exactly where it was.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .config import Config

MOST_SNR = 1000.0  # of nearly clean pictures, whose weight would be nothing


def generator(seed: int, purpose: str, which: int | str) -> torch.Generator:
    """Return a CPU generator that depends only on its arguments."""
    key = hashlib.sha256(f"{seed}/{purpose}/{which}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)


def timesteps(count: int, total: int, source: torch.Generator) -> Tensor:
    """Draw int64 (count,) timesteps, one from each `count`-th part of 0..total.

    Each is uniform by itself; spread together they give the loss less variance (Variational
    Diffusion Models, appendix I.1).
    """
    spread = (torch.arange(count) + torch.rand(count, generator=source)) / count
    return (spread * total).long().clamp(max=total - 1)


def noise_like(latents: Tensor, source: torch.Generator, offset: float = 0.0) -> Tensor:
    """Draw float32 noise of the shape of `latents`, with an optional shift per channel."""
    noise = torch.randn(latents.shape, generator=source)
    if offset:
        noise += offset * torch.randn(*latents.shape[:2], 1, 1, generator=source)
    return noise


def add_noise(latents: Tensor, noise: Tensor, signal: Tensor) -> Tensor:
    """Return the noised latents; `signal` (b,) is alpha-bar of each timestep (DDPM, eq. 4)."""
    level = signal.view(-1, 1, 1, 1)
    return level.sqrt() * latents + (1 - level).sqrt() * noise


def target(latents: Tensor, noise: Tensor, signal: Tensor, prediction: str) -> Tensor:
    """Return what the model should predict: the noise, or v (Progressive Distillation, app. D)."""
    if prediction == "epsilon":
        return noise
    level = signal.view(-1, 1, 1, 1)
    return level.sqrt() * noise - (1 - level).sqrt() * latents


def loss_weights(signal: Tensor, gamma: float, prediction: str, debiased: bool = False) -> Tensor:
    """Return the weight of each example's loss, (b,).

    min-SNR-gamma (min-SNR, eq. 8), which gamma 0 turns off, or debiased estimation (Debias the
    Training of Diffusion Models). A model that predicts v has a loss SNR + 1 times that of
    the picture, one that predicts the noise SNR times.
    """
    snr = signal / (1 - signal).clamp(min=1e-8)
    scale = (snr if prediction == "epsilon" else snr + 1).clamp(min=1e-8)
    if debiased:
        return snr.clamp(max=MOST_SNR).sqrt() / scale.clamp(max=MOST_SNR)
    return snr.clamp(max=gamma) / scale if gamma else torch.ones_like(signal)


def weighted_loss(
    output: Tensor, wanted: Tensor, weights: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Return the weighted mean squared error in float32.

    weights: (b,), of each example. mask: (b, 1, h, w), of each place; an example's mean is over
    what its mask shows, so that small masks count as much as large ones.
    """
    errors = (output.float() - wanted).square()
    if mask is None:
        return (errors.mean((1, 2, 3)) * weights).mean()
    shown = mask.mean((1, 2, 3)).clamp(min=1e-6)
    return ((errors * mask).mean((1, 2, 3)) / shown * weights).mean()


def learning_rate(step: int, config: Config) -> float:
    """Return the share of the peak rate in step 0, 1, ...: linear warm-up, then the schedule."""
    warmup = min(config.warmup, config.steps // 2)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, config.steps - warmup)
    return SCHEDULES[config.schedule](done, config.restarts)


# How the rate falls: (share of the steps that is done, restarts) -> share of the peak.
SCHEDULES: dict[str, Callable[[float, int], float]] = {
    "constant": lambda done, _: 1.0,
    "linear": lambda done, _: 1 - done,
    "cosine": lambda done, _: 0.5 * (1 + math.cos(math.pi * done)),
    "restarts": lambda done, count: 0.5 * (1 + math.cos(math.pi * (done * count % 1))),
}

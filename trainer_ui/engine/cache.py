"""Everything that does not change while training, computed once: latents and text embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import data
from .base import Base
from .data import Example
from .tokenizer import LENGTH

Say = Callable[[str], None]
TEXTS = 32  # prompts that are encoded together


@dataclass(frozen=True)
class Cache:
    """The pictures as the UNet sees them, in float32 on the CPU.

    mean, std: (n, 4, h, w) of the VAE's posterior, scaled; a step draws its latents from them, so
        that the VAE's own uncertainty is kept although it runs once. With `flip` the mirrored
        pictures follow as n more.
    texts: (m, 77, width) of the different prompts. prompts: int64 (n,), the prompt of each picture.
    empty: (1, 77, width), the embedding of the empty prompt.
    """

    mean: Tensor
    std: Tensor
    texts: Tensor
    prompts: Tensor
    empty: Tensor

    def __len__(self) -> int:
        return len(self.mean)


def build(
    base: Base, examples: list[Example], resolution: int, flip: bool, warn: Say, say: Say
) -> Cache:
    """Read and encode all pictures and prompts on the base's device."""
    mean, std = _encode_pictures(base, examples, resolution, flip, warn, say)
    prompts = [example.prompt for example in examples]
    unique = list(dict.fromkeys(prompts))
    number = {prompt: index for index, prompt in enumerate(unique)}
    numbers = torch.tensor([number[prompt] for prompt in prompts])
    return Cache(
        mean,
        std,
        _encode_texts(base, unique, warn),
        numbers.repeat(2) if flip else numbers,
        base.encode_text([""]).float().cpu(),
    )


@torch.no_grad()
def _encode_pictures(
    base: Base, examples: list[Example], resolution: int, flip: bool, warn: Say, say: Say
) -> tuple[Tensor, Tensor]:
    means, stds, small = [], [], []
    device = next(base.vae.parameters()).device
    for number, example in enumerate(examples, 1):
        pixels, too_small = data.read(example.path, resolution)
        if too_small:
            small.append(example.path.name)
        views = torch.stack([pixels, pixels.flip(-1)] if flip else [pixels])
        posterior = base.vae.encode(views.to(device)).latent_dist
        means.append(posterior.mean.float().cpu())
        stds.append(posterior.std.float().cpu())
        if number % 100 == 0:
            say(f"encoded {number} of {len(examples)} pictures")
    if small:
        warn(
            f"{len(small)} of {len(examples)} pictures are smaller than {resolution} px and were "
            f"enlarged, {small[0]} for one: lower the resolution or replace them"
        )
    scale = float(base.vae.config.scaling_factor)
    return _by_view(means) * scale, _by_view(stds) * scale


def _by_view(rows: list[Tensor]) -> Tensor:
    """n tensors (views, ...) -> (views * n, ...), all pictures of one view together."""
    return torch.stack(rows, dim=1).flatten(0, 1)


def _encode_texts(base: Base, prompts: list[str], warn: Say) -> Tensor:
    """Encode prompts in small groups; warn of those that CLIP's 77 tokens cut."""
    full = [prompt for prompt in prompts if base.tokenizer.count(prompt) > LENGTH - 2]
    if full:
        warn(f"{len(full)} captions are longer than {LENGTH - 2} tokens; their ends are not seen")
    groups = [prompts[i : i + TEXTS] for i in range(0, len(prompts), TEXTS)]
    return torch.cat([base.encode_text(group).float().cpu() for group in groups])

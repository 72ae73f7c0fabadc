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


@dataclass(frozen=True)
class Cache:
    """The pictures as the UNet sees them, in float32 on the CPU.

    mean, std: (n, 4, h, w) of the VAE's posterior, scaled; a step draws its latents from them, so
        that the VAE's own uncertainty is kept although it runs once. With `flip` the mirrored
        pictures follow as n more.
    text: (n, 77, width); empty: (1, 77, width), the embedding of the empty prompt.
    """

    mean: Tensor
    std: Tensor
    text: Tensor
    empty: Tensor

    def __len__(self) -> int:
        return len(self.mean)


@torch.no_grad()
def build(
    base: Base, examples: list[Example], resolution: int, flip: bool, warn: Say, say: Say
) -> Cache:
    """Read and encode all pictures and prompts on the base's device."""
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
    mean, std = _by_view(means) * scale, _by_view(stds) * scale
    text = _encode(base, [example.prompt for example in examples], warn)
    return Cache(mean, std, text.repeat(2, 1, 1) if flip else text, base.encode_text([""]).cpu())


def _by_view(rows: list[Tensor]) -> Tensor:
    """n tensors (views, ...) -> (views * n, ...), all pictures of one view together."""
    return torch.stack(rows, dim=1).flatten(0, 1)


def _encode(base: Base, prompts: list[str], warn: Say) -> Tensor:
    """Encode prompts in small groups; warn of those that CLIP's 77 tokens cut."""
    unique = list(dict.fromkeys(prompts))
    full = [prompt for prompt in unique if base.tokenizer.count(prompt) > LENGTH - 2]
    if full:
        warn(f"{len(full)} captions are longer than {LENGTH - 2} tokens; their ends are not seen")
    rows = [base.encode_text(unique[i : i + 32]).float().cpu() for i in range(0, len(unique), 32)]
    embeddings = torch.cat(rows)
    return embeddings[[unique.index(prompt) for prompt in prompts]]

"""Everything that does not change while training, computed once: latents and text embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import data, objective, text
from .base import Base
from .config import Config
from .data import Example
from .text import Texts
from .tokenizer import LENGTH

Say = Callable[[str], None]
TEXTS = 32  # prompts that are encoded together


@dataclass(frozen=True)
class Batch:
    """What one forward pass sees, on the CPU: b pictures of one size.

    latents: float32 (b, 4, h, w), drawn from the VAE's posterior.
    prompts: the text of each picture, "" where it was dropped.
    texts: their embeddings.
    sizes: float32 (b, 6), SDXL's numbers in pixels: the original's height and width, top and left
        of the cut, the trained height and width.
    weights: float32 (b,), the weight of each picture's loss.
    mask: float32 (b, 1, h, w) in 0..1, the weight of each latent's loss, or None.
    """

    latents: Tensor
    prompts: tuple[str, ...]
    texts: Texts
    sizes: Tensor
    weights: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class Cache:
    """The pictures as the UNet sees them, in float32 on the CPU.

    mean, std: (n, 4, h, w) of the VAE's posterior, scaled; a step draws its latents from them, so
        that the VAE's own uncertainty is kept although it runs once. With `flip` the mirrored
        pictures follow as n more.
    texts: of the different prompts, the empty one last. prompts: int64 (n,), that of each picture.
    """

    mean: Tensor
    std: Tensor
    texts: Texts
    prompts: Tensor
    sizes: Tensor
    names: tuple[str, ...]
    batch_size: int
    dropout: float

    def batch(self, number: int, seed: int) -> Batch:
        """Return batch `number` of a run, which depends on its arguments only.

        Its random numbers are of its own: pictures and texts stay the same whatever a loss draws.
        """
        source = objective.generator(seed, "data", number)
        rows = objective.batch_indices(seed, number, self.batch_size, len(self))
        mean, std = self.mean[rows], self.std[rows]
        latents = mean + std * torch.randn(mean.shape, generator=source)
        dropped = torch.rand(len(rows), generator=source) < self.dropout
        numbers = torch.where(dropped, len(self.texts) - 1, self.prompts[rows])
        return Batch(
            latents,
            tuple(self.names[number] for number in numbers),
            self.texts[numbers],
            self.sizes[rows],
            torch.ones(len(rows)),
            None,
        )

    def __len__(self) -> int:
        return len(self.mean)


def build(
    base: Base, config: Config, examples: list[Example], resolution: int, warn: Say, say: Say
) -> Cache:
    """Read and encode all pictures and prompts on the base's device."""
    flip = config.flip
    mean, std = _encode_pictures(base, examples, resolution, flip, warn, say)
    prompts = [example.prompt for example in examples]
    unique = list(dict.fromkeys(prompts))
    number = {prompt: index for index, prompt in enumerate(unique)}
    numbers = torch.tensor([number[prompt] for prompt in prompts])
    return Cache(
        mean,
        std,
        _encode_texts(base, [*unique, ""], warn),
        numbers.repeat(2) if flip else numbers,
        torch.tensor([[resolution, resolution, 0, 0] + [resolution] * 2] * len(mean)).float(),
        (*unique, ""),
        config.batch_size,
        config.caption_dropout,
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


def _encode_texts(base: Base, prompts: list[str], warn: Say) -> Texts:
    """Encode prompts in small groups; warn of those that CLIP's 77 tokens cut."""
    full = [prompt for prompt in prompts if base.tokenizer.count(prompt) > LENGTH - 2]
    if full:
        warn(f"{len(full)} captions are longer than {LENGTH - 2} tokens; their ends are not seen")
    groups = [prompts[i : i + TEXTS] for i in range(0, len(prompts), TEXTS)]
    kept = [base.encode_text(group).map(lambda tensor: tensor.float().cpu()) for group in groups]
    return text.cat(kept)

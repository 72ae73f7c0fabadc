"""Everything that does not change while training, computed once: latents and text embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import objective, text
from .base import Base
from .config import Config
from .data import Dataset, Example, order, pictures, summary
from .data.order import View
from .encoding import Cut, Say, encode_pictures, encode_texts
from .errors import DataInvalid
from .store import Record, Store, open_store
from .text import Texts


@dataclass(frozen=True)
class Batch:
    """What one forward pass sees, on the CPU: b pictures of one size.

    latents: float32 (b, 4, h, w), drawn from the VAE's posterior.
    prompts: the text of each picture, "" where it was dropped.
    texts: what the text encoders make of them.
    sizes: float32 (b, 6), SDXL's numbers in pixels: the original's height and width, top and left
        of the cut, the trained height and width.
    weights: float32 (b,), the weight of each picture's loss.
    mask: float32 (b, 1, h, w) in 0..1, the weight of each latent's loss, or None.
    names: the pictures' files, to name them in an error.
    """

    latents: Tensor
    prompts: tuple[str, ...]
    texts: Texts
    sizes: Tensor
    weights: Tensor
    mask: Tensor | None
    names: tuple[str, ...]

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with every tensor changed, such as moved to a device."""
        return replace(
            self,
            latents=change(self.latents),
            texts=self.texts.map(change),
            sizes=change(self.sizes),
            weights=change(self.weights),
            mask=None if self.mask is None else change(self.mask),
        )


@dataclass(frozen=True)
class Cache:
    """The pictures as the UNet sees them.

    examples: those that could be read, cuts: of each, views: the ways to show them, groups: of
    views of one size (see `order`). prompts: the key of each prompt. pictures, texts: the records
    of latents and prompts by key. A step draws its latents from the VAE's posterior, so that the
    VAE's own uncertainty is kept although it runs once.
    """

    examples: tuple[Example, ...]
    cuts: tuple[tuple[Cut, ...], ...]
    views: tuple[View, ...]
    groups: tuple[tuple[int, ...], ...]
    prompts: dict[str, str]
    pictures: Store
    texts: Store
    batch_size: int
    dropout: float
    class_weight: float

    def batch(self, number: int, seed: int) -> Batch:
        """Return batch `number` of a run, which depends on its arguments only.

        Its random numbers are of its own: pictures and texts stay the same whatever a loss draws.
        """
        source = objective.generator(seed, "data", number)
        rows = order.pick(seed, number, self.batch_size, self.groups)
        views = [self.views[row] for row in rows]
        records = [self._latents(view) for view in views]
        mean, std = (torch.stack([each[name] for each in records]) for name in ("mean", "std"))
        latents = mean + std * torch.randn(mean.shape, generator=source)
        prompts = self._prompts(views, source)
        classes = [self.examples[view.example].is_class for view in views]
        return Batch(
            latents=latents,
            prompts=prompts,
            texts=text.cat([Texts(**self.texts[self.prompts[prompt]]) for prompt in prompts]),
            sizes=torch.tensor([self._sizes(view) for view in views], dtype=torch.float32),
            weights=torch.tensor([self.class_weight if each else 1.0 for each in classes]),
            mask=_masks(records),
            names=tuple(self.examples[view.example].path.name for view in views),
        )

    def _latents(self, view: View) -> Record:
        return self.pictures[self.cuts[view.example][view.cut].keys[view.flipped]]

    def _prompts(self, views: list[View], source: torch.Generator) -> tuple[str, ...]:
        """Draw a variant of each picture's caption, or none of it."""
        dropped = torch.rand(len(views), generator=source) < self.dropout
        chances = torch.rand(len(views), generator=source)
        chosen = []
        for view, gone, chance in zip(views, dropped.tolist(), chances.tolist(), strict=True):
            variants = self.examples[view.example].prompts
            chosen.append("" if gone else variants[int(chance * len(variants))])
        return tuple(chosen)

    def _sizes(self, view: View) -> tuple[int, ...]:
        """Return SDXL's six numbers of a view; a mirrored cut starts where the other ended."""
        example = self.examples[view.example]
        (width, height), (across, down) = example.size, example.bucket
        left, top = self.cuts[view.example][view.cut].place
        place = (1 - left if view.flipped else left, top)
        return (height, width, *pictures.corner(example.size, example.bucket, place), down, across)


def build(base: Base, config: Config, dataset: Dataset, warn: Say, say: Say) -> Cache:
    """Read and encode all pictures and prompts on the base's device.

    Pictures that turn out to be damaged are left out and told; raises DataInvalid when none is
    left.
    """
    latents, texts = (
        open_store(config.cache / kind if config.cache else None) for kind in ("pictures", "texts")
    )
    encoded = encode_pictures(
        base, dataset, config.random_crops, config.flip, config.seed, latents, say
    )
    if encoded.skipped:
        warn(summary(encoded.skipped))
    if all(example.is_class for example in encoded.examples):
        raise DataInvalid(f"no picture can be trained: {summary(encoded.skipped)}")
    examples = encoded.examples
    views = order.views(examples, max(1, config.random_crops), config.flip)
    prompts = dict.fromkeys([*(text for each in examples for text in each.prompts), ""])
    return Cache(
        examples=examples,
        cuts=encoded.cuts,
        views=views,
        groups=order.groups(views, examples),
        prompts=encode_texts(base, list(prompts), texts, warn),
        pictures=latents,
        texts=texts,
        batch_size=config.batch_size,
        dropout=config.caption_dropout,
        class_weight=config.class_weight,
    )


def _masks(records: list[Record]) -> Tensor | None:
    """Return the masks of a batch, all of one where a picture has none; None when none has any."""
    if not any("mask" in record for record in records):
        return None
    return torch.stack([r.get("mask", torch.ones_like(r["mean"][:1])) for r in records])

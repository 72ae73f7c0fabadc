"""What the UNet is told: prompts as CLIP's text encoders understand them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import BaseInvalid
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Texts:
    """Encoded prompts.

    embeddings: (n, 77, width), one row per token. pooled: (n, p), one per prompt, which only SDXL
    has.
    """

    embeddings: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.embeddings)

    def map(self, change: Callable[[Tensor], Tensor]) -> Texts:
        """Return the texts with every tensor changed, such as moved to a device."""
        return Texts(change(self.embeddings), None if self.pooled is None else change(self.pooled))

    def __getitem__(self, rows: Any) -> Texts:
        """Return some of the prompts: rows as torch indexes the first dimension, not one number."""
        return self.map(lambda tensor: tensor[rows])


def cat(texts: Sequence[Texts]) -> Texts:
    """Return the prompts of all `texts` (at least one), in their order."""
    pooled = [each.pooled for each in texts if each.pooled is not None]
    return Texts(
        torch.cat([each.embeddings for each in texts]), torch.cat(pooled) if pooled else None
    )


@dataclass(frozen=True)
class TextEncoder:
    """One of a base's text encoders, with the tokenizer whose tokens it knows."""

    module: Any
    tokenizer: Tokenizer

    def __call__(self, prompts: list[str], base: str) -> Any:
        """Return transformers' output for the prompts, with hidden states of all layers.

        base: its name, for the error. Raises BaseInvalid when the tokenizer does not fit.
        """
        tokens = self.tokenizer(prompts)
        rows = self.module.get_input_embeddings().num_embeddings
        if int(tokens.max()) >= rows:
            raise BaseInvalid(
                f"base {base}: its tokenizer gives token {int(tokens.max())} and its text "
                f"encoder has {rows} tokens: give the diffusers folder with its own tokenizer"
            )
        device = next(self.module.parameters()).device
        return self.module(tokens.to(device), output_hidden_states=True)


def encode(encoders: Sequence[TextEncoder], prompts: list[str], base: str) -> Texts:
    """Return the prompts as the UNet of SD1.5 (one encoder) or SDXL (two) was trained on them.

    SD1.5 takes CLIP's last layer after its norm; SDXL the last but one of both encoders, side by
    side, and the second one's projection of the end token.
    """
    outputs = [encoder(prompts, base) for encoder in encoders]
    if len(outputs) == 1:
        return Texts(outputs[0].last_hidden_state)
    layers = [output.hidden_states[-2] for output in outputs]
    return Texts(torch.cat(layers, dim=-1), outputs[-1].text_embeds)

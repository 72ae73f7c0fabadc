"""CLIP's tokenizer without a download: the base folder's own, or the one embedded in a package."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

LENGTH = 77
BEGIN, END = 49406, 49407
CLIP_ROWS = 49408
OPENCLIP_PADDING = 0


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer."""

    def __call__(self, texts: list[str]) -> Tensor:
        """Return int64 (n, 77): begin, tokens, end, padding."""
        ...

    def count(self, text: str) -> int:
        """Return the number of tokens of a text, without begin and end, before any cut."""
        ...


class EmbeddedTokenizer:
    """OpenAI CLIP's tokenizer, from instant-clip-tokenizer's embedded vocabulary.

    padding: the token after the end: the end again, or for OpenCLIP's models token 0, a "!".
    """

    def __init__(self, padding: int = END) -> None:
        from instant_clip_tokenizer import Tokenizer as Clip

        self._clip, self._padding = Clip(), padding

    def __call__(self, texts: list[str]) -> Tensor:
        rows = torch.full((len(texts), LENGTH), self._padding)
        for row, text in zip(rows, texts, strict=True):
            words = self._words(text)[: LENGTH - 2]
            row[: len(words) + 2] = torch.tensor([BEGIN, *words, END])
        return rows

    def count(self, text: str) -> int:
        return len(self._words(text))

    def _words(self, text: str) -> list[int]:
        return self._clip.encode(" ".join(text.split()))


class FolderTokenizer:
    """The tokenizer that a diffusers folder holds in `tokenizer/`."""

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPTokenizer

        self._clip = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)

    def __call__(self, texts: list[str]) -> Tensor:
        return self._clip(
            texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
        ).input_ids

    def count(self, text: str) -> int:
        return len(self._clip(text, add_special_tokens=False, verbose=False).input_ids)

"""The base: a small Llama that has read the text, and what is measured of it."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import text
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

LAYERS = "*_proj"  # the Linear layers of all blocks: attention and feed-forward
BASE_BATCH, WARM_UP, BASE_RATE = 32, 0.1, 1e-3
Data = tuple[Tensor, Tensor]  # inputs and wanted next characters, as `text.batch` has them
Loss = Callable[[nn.Module, int], Tensor]  # of a model in step n


@dataclass(frozen=True)
class Size:
    """How large everything is. length: characters in a row of the base's text."""

    width: int
    layers: int
    base_steps: int
    steps: int
    base_rows: int = 20_000
    length: int = 64
    test: int = text.PARTS["test"]
    validation: int = text.PARTS["validation"]


SIZES = {
    "full": Size(width=256, layers=4, base_steps=3000, steps=300),
    "small": Size(width=128, layers=3, base_steps=1500, steps=250),
    "tiny": Size(width=32, layers=1, base_steps=20, steps=3, base_rows=200, test=20, validation=20),
}


def device() -> torch.device:
    """Return where everything is computed."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def network(size: Size) -> LlamaForCausalLM:
    """Return the untrained network, the same each time."""
    config = LlamaConfig(
        vocab_size=len(text.CHARACTERS),
        hidden_size=size.width,
        intermediate_size=2 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        max_position_embeddings=2 * size.length,
        tie_word_embeddings=False,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


def base(size: Size, folder: Path) -> LlamaForCausalLM:
    """Return the trained base, from `folder` where it lies there already."""
    path, model = folder / "base.safetensors", network(size)
    if not path.exists():
        _read(model.to(device()), size)
        partial = path.with_suffix(".partial")
        save_file(model.cpu().state_dict(), partial)
        os.replace(partial, path)
    model.load_state_dict(load_file(path))
    return model.to(device())


def _read(model: nn.Module, size: Size) -> None:
    """Train the base on its text."""
    rows = text.rows("base", size.base_rows, size.length).to(device())
    chosen = drawn("base", len(rows), (size.base_steps, BASE_BATCH))
    data = rows[:, :-1], rows[:, 1:]
    loss: Loss = lambda model, step: loss_of(model, data, chosen[step])  # noqa: E731
    descend(model, list(model.parameters()), loss, BASE_RATE, size.base_steps)


def descend(
    model: nn.Module, parameters: Sequence[nn.Parameter], loss: Loss, rate: float, steps: int
) -> None:
    """Train by AdamW without decay: warm-up, cosine to zero."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _factor(step / steps))
    for step in range(steps):
        loss(model, step).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def _factor(done: float) -> float:
    return min(1.0, done / WARM_UP + 0.05) * 0.5 * (1 + math.cos(math.pi * done))


def drawn(seed: str, end: int, shape: tuple[int, ...]) -> Tensor:
    """Return whole numbers below `end`, int64, that the seed alone decides."""
    generator = torch.Generator().manual_seed(zlib.crc32(seed.encode()))
    return torch.randint(end, shape, generator=generator).to(device())


def loss_of(model: nn.Module, data: Data, rows: Tensor) -> Tensor:
    """Return the mean loss of the next characters that count."""
    inputs, wanted = data
    logits = model(input_ids=inputs[rows]).logits
    return cross_entropy(logits.flatten(0, 1), wanted[rows].flatten(), ignore_index=text.IGNORED)


@torch.no_grad()
def wrong(model: nn.Module, data: Data) -> Tensor:
    """Count the characters of each answer that are not the likeliest ones, int64 (examples,).

    Each comes after the right ones before it; so none is wrong exactly when the whole answer comes
    out where the likeliest character is said each time.
    """
    inputs, wanted = data
    said = model(input_ids=inputs).logits.argmax(-1)
    return ((said != wanted) & (wanted != text.IGNORED)).sum(1)


@torch.no_grad()
def perplexity(model: nn.Module, size: Size) -> float:
    """Return the perplexity of a character of the base's text, on lines that it has not read."""
    rows = text.rows("held out", 128, size.length).to(device())
    whole = torch.arange(len(rows), device=rows.device)
    return math.exp(loss_of(model, (rows[:, :-1], rows[:, 1:]), whole).item())

"""Captions: tags between commas, and the variants of them that a run is trained on."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from ..objective import generator

SEPARATOR = ","


@dataclass(frozen=True)
class Rule:
    """How captions vary.

    trigger: put before every one. shuffle: whether the tags change places. keep: first tags that
    stay as they are. dropout: chance of each other tag to be left out. variants: captions drawn.
    """

    trigger: str = ""
    shuffle: bool = False
    keep: int = 0
    dropout: float = 0.0
    variants: int = 1


def join(trigger: str, text: str) -> str:
    """Put the trigger before a text, unless the text already holds it."""
    if not trigger or re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", text, re.IGNORECASE):
        return text
    return f"{trigger}, {text}" if text else trigger


def tags(text: str) -> list[str]:
    """Return the tags of a caption, those that are not empty."""
    return [tag for part in text.split(SEPARATOR) if (tag := " ".join(part.split()))]


def variants(text: str, rule: Rule, seed: int) -> tuple[str, ...]:
    """Return the different prompts that a caption is trained as, the same for the same arguments.

    A rule that changes nothing gives the caption as it is, with the trigger. The trigger is never
    lost: where its tag was left out it is put before the others again.
    """
    if not (rule.shuffle or rule.dropout):
        return (join(rule.trigger, text),)
    source = generator(seed, "caption", text)
    return tuple(dict.fromkeys(_variant(text, rule, source) for _ in range(rule.variants)))


def _variant(text: str, rule: Rule, source: torch.Generator) -> str:
    every = tags(text)
    kept, free = every[: rule.keep], every[rule.keep :]
    if rule.dropout:
        chances = torch.rand(len(free), generator=source).tolist()
        free = [tag for tag, chance in zip(free, chances, strict=True) if chance >= rule.dropout]
    if rule.shuffle:
        free = [free[place] for place in torch.randperm(len(free), generator=source).tolist()]
    return join(rule.trigger, f"{SEPARATOR} ".join([*kept, *free]))

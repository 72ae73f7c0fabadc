"""Optimizers by name. Each moves one flat float32 vector per trained module."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch.optim import Optimizer

from .config import Config
from .errors import ConfigInvalid

Groups = list[dict[str, Any]]
Make = Callable[[Groups, Config], Optimizer]


def make(groups: Groups, config: Config) -> Optimizer:
    """Return the optimizer of the settings. groups: "params" and "lr" (the peak) of each.

    Raises ConfigInvalid, saying what to install, when its library is not there.
    """
    return _MAKERS[config.optimizer](groups, config)


def notes(config: Config) -> list[str]:
    """Return a line for what is allowed and likely a mistake."""
    if config.optimizer == "prodigy" and config.lr < 0.1:
        return [f"prodigy finds the rate itself, times lr: set lr to 1 (now {config.lr})"]
    return []


def _adamw(groups: Groups, config: Config) -> Optimizer:
    # one kernel, which computes nothing on copies of the vectors
    fused = True if groups[0]["params"][0].is_cuda else None
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=fused)


def _adamw8bit(groups: Groups, config: Config) -> Optimizer:
    kind = _optional("bitsandbytes.optim", "AdamW8bit", "bitsandbytes", config)
    return kind(groups, lr=config.lr, weight_decay=config.weight_decay)


def _prodigy(groups: Groups, config: Config) -> Optimizer:
    kind = _optional("prodigyopt", "Prodigy", "prodigyopt", config)
    if len({group["lr"] for group in groups}) > 1:
        raise ConfigInvalid(
            f"optimizer = 'prodigy' finds one rate for all: set text_lr to lr ({config.lr})"
        )
    return kind(
        groups,
        lr=config.lr,
        weight_decay=config.weight_decay,
        use_bias_correction=True,
        safeguard_warmup=True,  # else the warm-up's small rates spoil its estimate
    )


def _lion(groups: Groups, config: Config) -> Optimizer:
    kind = _optional("lion_pytorch", "Lion", "lion-pytorch", config)
    return kind(groups, lr=config.lr, weight_decay=config.weight_decay)


def _adafactor(groups: Groups, config: Config) -> Optimizer:
    from transformers.optimization import Adafactor

    return Adafactor(
        groups,
        lr=config.lr,
        weight_decay=config.weight_decay,
        scale_parameter=False,  # deltas begin at 0, which it would take for tiny parameters
        relative_step=False,
    )


_MAKERS: dict[str, Make] = {
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "prodigy": _prodigy,
    "lion": _lion,
    "adafactor": _adafactor,
}


def _optional(module: str, name: str, package: str, config: Config) -> Any:
    try:
        return getattr(import_module(module), name)
    except ImportError:
        raise ConfigInvalid(
            f"optimizer = {config.optimizer!r} needs {package}: pip install {package}, or use adamw"
        ) from None

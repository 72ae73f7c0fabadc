"""The ways to fine-tune a UNet that are compared, with LoRA's number of parameters.

All adapt the Linear layers of the attention blocks. The two that end in `-all` are what the trainer
does by default: 2 % of every Linear and Conv weight of the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

OURS: dict[str, dict[str, Any]] = {
    "wm": {"mask": "wm"},
    "struct": {"mask": "struct", "axis": "both", "diagonal": True},
    "columns": {"mask": "struct", "axis": "columns", "diagonal": False},
}
BLOCKS = ("attentions", "resnets")
DENSITY = 0.02
ALL = ("wm-all", "columns-all")
THEIRS = ("lora", "dora", "peft-shira")
METHODS = (*THEIRS, *OURS)


@dataclass(frozen=True)
class Trained:
    """What is called and moved. write, run: how our weights are made to follow, and our run."""

    model: nn.Module
    parameters: list[nn.Parameter]
    write: Callable[[], None] | None = None
    run: Any = None


def linears(unet: nn.Module) -> list[str]:
    """Return the Linear layers of the attention blocks, which all methods can adapt."""
    return [
        name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and "attentions" in name.split(".")
    ]


def everything(unet: nn.Module) -> list[str]:
    """Return all Linear and Conv layers of the UNet's blocks."""
    return [
        name
        for name, module in unet.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and set(BLOCKS) & set(name.split("."))
    ]


@contextmanager
def trained(method: str, unet: nn.Module, rank: int, plain: bool = False) -> Iterator[Trained]:
    """Prepare a method; adapters of others have float32 parameters, as ours, or the base's dtype.

    plain: the base's dtype, which a forward pass without autocast needs.
    """
    if method.removesuffix("-all") in OURS:
        from shira_core.training import finetune

        whole = method in ALL
        budget = {"density": DENSITY} if whole else {"rank": rank}
        layers = everything(unet) if whole else linears(unet)
        with finetune(unet, layers=layers, **budget, **OURS[method.removesuffix("-all")]) as run:
            yield Trained(unet, run.parameters(), run.update, run)
        return
    from peft import get_peft_model

    config = _config(method, rank, linears(unet))
    adapted = get_peft_model(unet, config, autocast_adapter_dtype=not plain)
    yield Trained(adapted, [each for each in adapted.parameters() if each.requires_grad])


def _config(method: str, rank: int, targets: list[str]) -> Any:
    import peft

    if method == "peft-shira":
        return peft.ShiraConfig(r=rank, target_modules=targets, random_seed=0)
    dora = method == "dora"
    return peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, use_dora=dora)

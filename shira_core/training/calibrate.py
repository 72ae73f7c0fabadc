"""Gradients of calibration data, for the masks "grad" and "snip" (SHiRA, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InvalidValue
from .gradients import each_gradient
from .select import Layers, choose


def calibrate(
    module: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    layers: Layers | None = None,
    absolute: bool = False,
    device: torch.device | str | None = None,
) -> dict[str, Tensor]:
    """Return the summed gradient of each chosen weight, float32, by its name.

    loss_fn: (module, batch) -> loss. absolute: sum |gradient| per batch instead of the gradient.
    device: where the sums are kept, such as "cpu"; by default beside each weight. One dense
    gradient at a time lives besides the sums. The module is as before afterwards.
    Raises InvalidValue when there is no batch.
    """
    chosen = choose(module, layers)
    sums: dict[str, Tensor] = {}

    def add(name: str, weight: Tensor, grad: Tensor) -> None:
        grad = (grad.abs() if absolute else grad).to(device or grad.device, torch.float32)
        sums[name] = sums[name].add_(grad) if name in sums else grad.clone()

    if not each_gradient(module, chosen, batches, loss_fn, add):
        raise InvalidValue("calibration needs at least one batch")
    for each in chosen:
        if each.name not in sums:
            sums[each.name] = torch.zeros_like(each.weight, dtype=torch.float32, device=device)
    return sums

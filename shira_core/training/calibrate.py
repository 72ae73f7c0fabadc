"""Gradients of calibration data, for the masks "grad" and "snip" (SHiRA, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InvalidValue
from . import freeze
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
    with ExitStack() as stack:
        stack.enter_context(freeze.only(module, [each.weight for each in chosen]))
        for each in chosen:
            hook = _adder(sums, each.name, absolute, device)
            stack.callback(each.weight.register_post_accumulate_grad_hook(hook).remove)
        count = 0
        for batch in batches:
            count += 1
            loss_fn(module, batch).backward()
    if not count:
        raise InvalidValue("calibration needs at least one batch")
    for each in chosen:
        if each.name not in sums:
            sums[each.name] = torch.zeros_like(each.weight, dtype=torch.float32, device=device)
    return sums


def _adder(
    sums: dict[str, Tensor], name: str, absolute: bool, device: torch.device | str | None
) -> Callable[[Tensor], None]:
    """Return the hook that adds a dense gradient to the sums and frees it at once."""

    def add(weight: Tensor) -> None:
        grad, weight.grad = weight.grad, None
        if grad is None:
            return
        with torch.no_grad():
            grad = (grad.abs() if absolute else grad).to(device or grad.device, torch.float32)
            sums[name] = sums[name].add_(grad) if name in sums else grad.clone()

    return add

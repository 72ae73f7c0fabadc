"""Dense gradients of some batches, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from . import freeze
from .select import Chosen

Take = Callable[[str, Tensor, Tensor], None]


def each_gradient(
    module: nn.Module,
    chosen: Sequence[Chosen],
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    take: Take,
) -> int:
    """Give the gradient of each chosen weight to `take` as soon as it is there, and free it.

    loss_fn: (module, batch) -> loss. take: (name, weight, gradient), may change both tensors. All
    other weights are frozen inside; gradients and `requires_grad` are as before afterwards. Returns
    the number of batches.
    """
    count = 0
    with ExitStack() as stack:
        stack.enter_context(freeze.only(module, [each.weight for each in chosen]))
        for each in chosen:
            hook = _giver(each.name, take)
            stack.callback(each.weight.register_post_accumulate_grad_hook(hook).remove)
        for batch in batches:
            count += 1
            loss_fn(module, batch).backward()
    return count


def _giver(name: str, take: Take) -> Callable[[Tensor], None]:
    def give(weight: Tensor) -> None:
        grad, weight.grad = weight.grad, None
        if grad is not None:
            with torch.no_grad():
                take(name, weight, grad)

    return give

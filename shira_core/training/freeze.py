"""Let some weights of a module have gradients, and give everything back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def only(module: nn.Module, weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let only these weights of the module have gradients.

    All gradients are None inside. At the end `requires_grad` and `.grad` of every parameter are
    what and which they were.
    """
    before = [(each, each.requires_grad, each.grad) for each in module.parameters()]
    trained = {id(weight) for weight in weights}
    try:
        for parameter, _, _ in before:
            parameter.grad = None
            parameter.requires_grad_(id(parameter) in trained)
        yield
    finally:
        for parameter, flag, grad in before:
            parameter.requires_grad_(flag)
            parameter.grad = grad

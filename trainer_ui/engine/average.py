"""A running mean of what is trained: smoother than the last step's values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

FIRST_STEPS = 10  # the mean of few steps is over few: min(decay, (1 + n) / (10 + n))


class Average:
    """The exponential mean of some vectors; without decay it is the vectors themselves."""

    def __init__(self, vectors: Mapping[str, nn.Parameter], decay: float) -> None:
        self._vectors, self._decay = dict(vectors), decay
        self._means = {name: each.detach().clone() for name, each in vectors.items() if decay}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the vectors after step 1, 2, ..."""
        decay = min(self._decay, (1 + step) / (FIRST_STEPS + step))
        for name, mean in self._means.items():
            mean.lerp_(self._vectors[name].detach(), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the vectors hold their means; afterwards they are as before, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the means by name; nothing without decay."""
        return {name: mean.clone() for name, mean in self._means.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict()` of the same vectors."""
        for name, mean in self._means.items():
            mean.copy_(state[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, mean in self._means.items():
            kept = mean.clone()
            mean.copy_(self._vectors[name])
            self._vectors[name].copy_(kept)

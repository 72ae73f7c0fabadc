"""One training loop for every stage: whole steps as CUDA graphs, averaged weights, a time limit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EMA = 0.999
WARM_UP = 200


class Trainer:
    """Minimises `loss()` over the parameters of `modules` that require gradients.

    A step is one CUDA graph, unless `eager`. The learning rate follows a cosine over the
    time given to `run`, so that a run always ends annealed.
    """

    def __init__(
        self, modules: list[nn.Module], loss: Callable[[], Tensor], lr: float, eager: bool
    ) -> None:
        every = (p for module in modules for p in module.parameters())
        self.parameters = [p for p in every if p.requires_grad]
        self.average = [p.detach().clone() for p in self.parameters]
        self.loss, self.peak = loss, lr
        self.graphed = not eager
        self.rate = torch.tensor(0.0, device=DEVICE)
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=self.rate if self.graphed else 0.0,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            capturable=self.graphed,
        )
        self.step = 0
        self.last = torch.zeros((), device=DEVICE)

    def one(self) -> None:
        """Forward, backward, clip, update, average."""
        enabled = DEVICE.type == "cuda"
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=enabled, cache_enabled=False):
            loss = self.loss()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - EMA)
        self.last.copy_(loss.detach())

    def prepare(self) -> Callable[[], None]:
        """Return a function that runs one step; a graph is warmed up with the rate still 0."""
        if not self.graphed:
            return self.one
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(4):
                self.one()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.one()
        return graph.replay

    def set_rate(self, done: float) -> None:
        """Set the learning rate for the share `done` of the run: a short rise, then a cosine."""
        warm = min(1.0, (self.step + 1) / WARM_UP)
        rate = self.peak * warm * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-6
        if self.graphed:
            self.rate.fill_(rate)
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = rate

    def run(self, until: float, save: Callable[[], None], max_steps: int = 10**9) -> None:
        """Step until the time `until`; half way and at the end call `save`, the weights averaged.

        Raises FloatingPointError, and saves nothing, when weights are not finite.
        """
        advance = self.prepare()
        began, shown, half = time.time(), 0.0, False
        while (now := time.time()) < until and self.step < max_steps:
            done = (now - began) / (until - began)
            self.set_rate(done)
            for _ in range(10 if self.graphed else 1):
                advance()
                self.step += 1
            loss = self.last.item()
            if now - shown > 15:
                shown = now
                print(f"step {self.step} {now - began:.0f}s loss {loss:.4f}", flush=True)
            if not half and done > 0.5:
                half = True
                self.save(save)
        self.save(save)

    def save(self, save: Callable[[], None]) -> None:
        """Call `save` with the averaged weights in place, unless they are not finite."""
        if not all(bool(torch.isfinite(value).all()) for value in self.average):
            raise FloatingPointError(f"weights are no longer finite at step {self.step}")
        with self.averaged():
            save()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights into the modules, and the raw ones back afterwards."""
        raw = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            torch._foreach_copy_([p.data for p in self.parameters], self.average)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_([p.data for p in self.parameters], raw)

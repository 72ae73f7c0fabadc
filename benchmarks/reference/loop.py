"""One training loop for every stage: whole steps as CUDA graphs, averaged weights, a time limit.

Started by `torchrun`, every process draws its own batches and gradients are averaged over all.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EMA = 0.999
WARM_UP = 200
RANK = int(os.environ.get("RANK", "0"))
PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))


def join_processes() -> None:
    """Take this process's GPU and meet the others, if `torchrun` started several."""
    if DEVICE.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if PROCESSES > 1:
        dist.init_process_group("nccl" if DEVICE.type == "cuda" else "gloo")


class Trainer:
    """Minimises `loss()` over the parameters of `modules` that require gradients.

    The gradient is one flat vector that the parameters' gradients are views of. A step is two
    CUDA graphs, unless `eager`: gradient, then update; processes meet in between. The learning
    rate follows a cosine over the time given to `run`, so that a run always ends annealed.
    """

    def __init__(
        self, modules: list[nn.Module], loss: Callable[[], Tensor], lr: float, eager: bool
    ) -> None:
        every = (p for module in modules for p in module.parameters())
        self.parameters = [p for p in every if p.requires_grad]
        self.gradient = torch.zeros(sum(p.numel() for p in self.parameters), device=DEVICE)
        pieces = self.gradient.split([p.numel() for p in self.parameters])
        for parameter, piece in zip(self.parameters, pieces, strict=True):
            if PROCESSES > 1:
                dist.broadcast(parameter.data, 0)
            parameter.grad = piece.as_strided(
                parameter.size(), parameter.stride(), piece.storage_offset()
            )
        torch.manual_seed(RANK)
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

    def differentiate(self) -> None:
        """Fill the gradient."""
        self.gradient.zero_()
        enabled = DEVICE.type == "cuda"
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=enabled, cache_enabled=False):
            loss = self.loss()
        loss.backward()
        self.last.copy_(loss.detach())

    def update(self) -> None:
        """Clip the gradient to norm 1, step, average the weights."""
        self.gradient.mul_((1 / (self.gradient.norm() + 1e-6)).clamp(max=1.0))
        self.optimizer.step()
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - EMA)

    def prepare(self) -> Callable[[], None]:
        """Return a function that runs one step; graphs are warmed up with the rate still 0."""
        parts = [self.differentiate, self.update]
        if self.graphed:
            parts = [captured(part) for part in parts]

        def one() -> None:
            parts[0]()
            if PROCESSES > 1:
                dist.all_reduce(self.gradient)
                self.gradient /= PROCESSES
            parts[1]()

        return one

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
        while (done := self.share_done(began, until)) < 1 and self.step < max_steps:
            self.set_rate(done)
            for _ in range(10 if self.graphed else 1):
                advance()
                self.step += 1
            loss, now = self.last.item(), time.time()
            if now - shown > 15 and RANK == 0:
                shown = now
                print(f"step {self.step} {now - began:.0f}s loss {loss:.4f}", flush=True)
            if not half and done > 0.5:
                half = True
                self.save(save)
        self.save(save)

    def share_done(self, began: float, until: float) -> float:
        """Return the share of the run's time that is over, by the first process's clock."""
        share = torch.tensor((time.time() - began) / (until - began), device=DEVICE)
        if PROCESSES > 1:
            dist.broadcast(share, 0)
        return share.item()

    def save(self, save: Callable[[], None]) -> None:
        """Call `save` in the first process, averaged weights in place, unless not finite."""
        if not all(bool(torch.isfinite(value).all()) for value in self.average):
            raise FloatingPointError(f"weights are no longer finite at step {self.step}")
        if RANK == 0:
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


def captured(work: Callable[[], None]) -> Callable[[], None]:
    """Return `work` as a CUDA graph, after four runs to warm up."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(4):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph.replay

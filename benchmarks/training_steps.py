"""One training step, part by part or captured once in a CUDA graph, and how long it takes."""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any

import torch
from torch import Tensor
from training_methods import Trained
from training_unets import Batch

PARTS = ("write", "forward", "backward", "optimizer")
ALIKE = 5  # losses that are kept, to compare methods of one arithmetic


class Steps:
    """Training steps as a trainer does them, and how long their parts took."""

    captured = False

    def __init__(self, method: Trained, batch: Batch, device: torch.device, plain: bool) -> None:
        self._method, self._batch, self._device = method, batch, device
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=not plain)
        cuda = device.type == "cuda"  # without fused, a step computes on copies of all parameters
        self._optimizer = torch.optim.AdamW(
            method.parameters, lr=1e-4, fused=cuda, capturable=cuda and self.captured
        )
        self._times: list[list[float]] = []
        self._host: list[float] = []
        self._losses: list[float] = []

    @property
    def count(self) -> int:
        return len(self._times)

    def prepare(self, warmup: int) -> None:
        """Do steps that are not timed."""
        for _ in range(warmup):
            self._step()
        wait(self._device)

    def run(self) -> None:
        """Do one timed step."""
        started = time.perf_counter()
        marks, loss = self._timed()
        self._host.append((time.perf_counter() - started) * 1e3)
        self._losses.append(loss.item())
        wait(self._device)
        self._times.append([between(*pair) for pair in itertools.pairwise(marks)])

    def results(self) -> dict[str, Any]:
        """Return medians in milliseconds, and the first losses.

        host_ms: until everything was launched. Near step_ms, the GPU waits for Python.
        """
        return {
            "steps": self.count,
            "step_ms": round(statistics.median(map(sum, self._times)), 3),
            "host_ms": round(statistics.median(self._host), 3),
            **self._parts(),
            "losses": self._losses[:ALIKE],
        }

    def _parts(self) -> dict[str, float]:
        parts = map(statistics.median, zip(*self._times, strict=True))
        return {f"{name}_ms": round(part, 3) for name, part in zip(PARTS, parts, strict=True)}

    def _timed(self) -> tuple[list[Any], Tensor]:
        marks: list[Any] = []
        loss = self._step(marks)
        return marks, loss

    def _step(self, marks: list[Any] | None = None) -> Tensor:
        """Do one step; note the time before it and after each part."""

        def note() -> None:
            if marks is not None:
                marks.append(mark(self._device))

        note()
        if self._method.write:
            self._method.write()
        note()
        with self._autocast:
            predicted = self._batch.predict(self._method.model)
        loss = torch.nn.functional.mse_loss(predicted.float(), self._batch.noise.float())
        note()
        loss.backward()
        note()
        self._optimizer.step()
        self._optimizer.zero_grad()
        note()
        return loss.detach()


class CapturedSteps(Steps):
    """Steps that a CUDA graph replays: the GPU's own time, without Python's.

    The graph holds all of a step, its writing and gathering hooks included. Its gradients live in
    the graph's memory: they are None outside.
    """

    captured = True

    def prepare(self, warmup: int) -> None:
        """Do steps that are not timed, then capture one, which does nothing yet."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # autograd's leaves remember the stream that they met first
            super().prepare(warmup)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            self._loss = self._step()

    def _timed(self) -> tuple[list[Any], Tensor]:
        marks = [mark(self._device)]
        self._graph.replay()
        return [*marks, mark(self._device)], self._loss

    def _parts(self) -> dict[str, float]:
        return {}


def mark(device: torch.device) -> Any:
    """Return a moment on the device."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(start: Any, stop: Any) -> float:
    """Return the milliseconds between two moments; the device must have reached them."""
    return (stop - start) * 1e3 if isinstance(start, float) else start.elapsed_time(stop)


def wait(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize()

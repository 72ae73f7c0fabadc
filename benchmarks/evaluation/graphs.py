"""Work that a CUDA graph replays, so that small networks are not slowed by Python."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Replayed:
    """Calls `work` again and again: as it is on a CPU, as a graph on a GPU, on a stream of its own.

    The first calls are ordinary ones, in which libraries load what they need. `work` takes what
    it works on from tensors that stay where they are. Several of these run side by side.
    """

    def __init__(self, work: Callable[[], None], device: torch.device, ordinary: int = 3) -> None:
        self._work, self._left = work, ordinary
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._graph: torch.cuda.CUDAGraph | None = None
        if self._stream:
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def __call__(self) -> None:
        """Start the work once; `wait` before using what it made."""
        if self._stream is None:
            self._work()
            return
        with torch.cuda.stream(self._stream):
            if self._graph:
                self._graph.replay()
            elif self._left:
                self._left -= 1
                self._work()
            else:
                self._capture()
                self()

    def wait(self) -> None:
        """Let what comes next on the usual stream see the work as done."""
        if self._stream:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    def follow(self) -> None:
        """Let the work see what the usual stream has done until now."""
        if self._stream:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._work()
        self._graph = graph

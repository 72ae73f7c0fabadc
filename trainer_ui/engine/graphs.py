"""Work of a GPU that is recorded once and replayed: CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

import torch

from .config import Config
from .encoding import Say
from .opening import Opened

Work = Callable[[], object]


class Recorder(Protocol):
    """What records the work of a device."""

    def ready(self) -> AbstractContextManager[object]:
        """Return the context in which work is done for the first time, before it is recorded."""

    def record(self, work: Work) -> Work:
        """Return a replay of the work, which is not done yet; raises RuntimeError."""

    def free(self) -> None:
        """Give back the memory of all replays; nobody has one any more."""


class Graphs:
    """Records CUDA graphs. They share their memory, since only one of them runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Work on the stream that records: libraries and autograd keep things for each stream."""
        usual = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(usual)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            usual.wait_stream(self._stream)

    def record(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        recording = torch.cuda.graph(
            graph,
            pool=self._pool,
            stream=self._stream,
            capture_error_mode="thread_local",  # NCCL's thread may ask for its events meanwhile
        )
        try:
            with self.ready(), recording:
                work()
        except RuntimeError:
            self._break_off()
            raise
        return graph.replay

    def free(self) -> None:
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        self._pool = torch.cuda.graph_pool_handle()

    def _break_off(self) -> None:
        """Tell torch's allocator that a recording has failed, which torch itself leaves out.

        It raises where torch has done it; then the rest is done, too.
        """
        with suppress(AttributeError, RuntimeError):
            torch._C._cuda_endAllocateToPool(self._stream.device_index, self._pool)
            torch._C._cuda_releasePool(self._stream.device_index, self._pool)


RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": Graphs}


def recorder(config: Config, opened: Opened, warn: Say) -> Recorder | None:
    """Return what records the passes of a run; None, with a warning, where that cannot be."""
    kind = opened.device.type
    if config.capture == "off" or (config.capture == "auto" and kind not in RECORDERS):
        return None
    if kind not in RECORDERS:
        warn(f"capture = 'on' has no effect on a device such as {kind}")
    elif opened.base.text_encoders:
        warn("steps are not captured, since text encoders are trained: they are slower")
    else:
        return RECORDERS[kind](opened.device)
    return None

"""What a GPU's graphs do, on the CPU: note the operations of some work, and do them again.

As with a GPU, recording does nothing yet, and a replay runs no Python of ours: it reads and writes
the tensors that were there when the work was recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Work = Callable[[], object]


def _tensors(values: Any) -> list[Tensor]:
    return [each for each in tree_leaves(values) if isinstance(each, Tensor)]


class Tape(TorchDispatchMode):
    """Notes operations while it is entered, and undoes what they did to older tensors."""

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._own: set[int] = set()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for tensor in _tensors((args, kwargs)):
                self._keep(tensor)
        result = func(*args, **kwargs)
        results = _tensors(result)
        inputs = {each.untyped_storage()._cdata for each in _tensors((args, kwargs))}
        self._own |= {each.untyped_storage()._cdata for each in results} - inputs
        self._operations.append((func, args, kwargs, results))
        return result

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for whole, copy in self._before.values():
            whole.copy_(copy)

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, results in self._operations:
                for place, result in zip(results, _tensors(func(*args, **kwargs)), strict=True):
                    if place.data_ptr() != result.data_ptr():
                        place.copy_(result)

    def _keep(self, tensor: Tensor) -> None:
        """Keep what an older tensor's memory holds."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._own and storage._cdata not in self._before:
            whole = torch.empty(0, dtype=torch.uint8).set_(storage)
            self._before[storage._cdata] = (whole, whole.clone())


class Tapes:
    """Records tapes, and counts what it is asked for. fails: the number of the first that fails."""

    def __init__(self, fails: int = 1000) -> None:
        self.recorded = self.replayed = self.freed = self.ordinary = 0
        self._fails = fails

    @contextmanager
    def ready(self) -> Iterator[None]:
        self.ordinary += 1
        yield

    def record(self, work: Work) -> Work:
        tape = Tape()
        with tape:
            work()
            if self.recorded + 1 >= self._fails:
                raise RuntimeError("operation not permitted\nwhen stream is capturing")
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            tape.replay()

        return replay

    def free(self) -> None:
        self.freed += 1

"""Memory of a computation on meta tensors: nothing is computed, but all that lives is counted.

Tensors are counted from their creation until Python and autograd let go of them, as CUDA's
allocator sees it. What meta kernels do not show is added by rule: autocast, attention
without its score matrix, and the copies that convolutions make of channels-first tensors.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint as torch_checkpoint

BLOCK = 512  # CUDA's allocator rounds up to it
FLASH_ROWS, FLASH_WIDTH = 128, 32  # flash attention's backward pass rounds up to these
# torch's lists for CUDA, as far as UNets and autoencoders use them
NARROW = {
    torch.nn.functional.linear,
    torch.nn.functional.conv2d,
    torch.nn.functional.scaled_dot_product_attention,
}
WIDE = {
    torch.nn.functional.layer_norm,
    torch.nn.functional.group_norm,
    torch.nn.functional.mse_loss,
}
_aten = torch.ops.aten
CONVOLUTIONS = {_aten.convolution.default, _aten.convolution_backward.default}


class Meter(TorchDispatchMode):
    """Counts bytes of the tensors that live, and the most at a time, while it is entered.

    held: tensors that exist before, such as weights.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.peak = self._living = 0
        self._known: dict[int, weakref.ref[Any]] = {}
        for tensor in held:
            self._count(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = _tensors(result)
        for tensor in tensors:
            self._count(tensor)
        extra = 0
        if func in CONVOLUTIONS:
            extra = sum(map(_copied, {id(t): t for t in [*_tensors(args), *tensors]}.values()))
        self.peak = max(self.peak, self._living + extra)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, -(-storage.nbytes() // BLOCK) * BLOCK
        if key in self._known:
            return

        def gone(_: Any) -> None:
            del self._known[key]
            self._living -= size

        self._known[key] = weakref.ref(storage, gone)
        self._living += size
        self.peak = max(self.peak, self._living)


class Rules(TorchFunctionMode):
    """Replaces attention by `_Attention`, and casts to `autocast` as torch does there; None: not.

    They do not hold inside a backward pass: see `checkpoint` for the forward passes in it.
    """

    def __init__(self, autocast: torch.dtype | None) -> None:
        super().__init__()
        self._autocast = autocast
        self._weights: dict[int, Tensor] = {}  # kept to the end of the context, as torch does

    def __exit__(self, *error: Any) -> None:
        self._weights.clear()
        super().__exit__(*error)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._autocast and func in NARROW:
            args, kwargs = tree_map(self._narrow, (args, kwargs))
        elif self._autocast and func in WIDE:
            args, kwargs = tree_map(self._wide, (args, kwargs))
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _Attention.apply(*args[:3] or (kwargs["query"], kwargs["key"], kwargs["value"]))
        return func(*args, **kwargs)

    def _narrow(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(self._autocast)
        if id(value) not in self._weights:
            self._weights[id(value)] = value.to(self._autocast)
        return self._weights[id(value)]

    def _wide(self, value: Any) -> Any:
        return (
            value.float() if isinstance(value, Tensor) and value.dtype == self._autocast else value
        )


def checkpoint(autocast: torch.dtype | None) -> Callable[..., Any]:
    """Return torch's activation checkpointing with the rules in its second forward pass."""
    contexts = partial(_contexts, autocast)
    return partial(torch_checkpoint, use_reentrant=False, context_fn=contexts)


def _contexts(
    autocast: torch.dtype | None,
) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), Rules(autocast)


class _Attention(torch.autograd.Function):
    """Flash attention's tensors: (batch, heads, tokens, width), and what both passes allocate."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, sums)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        query, key, value, _, _ = ctx.saved_tensors
        batch, heads, tokens, width = query.shape
        rows, columns = _up(tokens, FLASH_ROWS), _up(width, FLASH_WIDTH)
        summed = query.new_empty((batch, heads, rows, columns), dtype=torch.float32)
        results = tuple(torch.empty_like(each) for each in (query, key, value))
        del summed  # lives as long as the results are computed
        return results


def _tensors(values: Any) -> list[Tensor]:
    return [each for each in tree_leaves(values) if isinstance(each, Tensor)]


def _copied(tensor: Tensor) -> int:
    """Return what a convolution's copy in the layout channels-last takes."""
    plain = tensor.dim() == 4 and tensor.is_contiguous()
    plain = plain and not tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.numel() * tensor.element_size() if plain else 0


def _up(number: int, step: int) -> int:
    return -(-number // step) * step

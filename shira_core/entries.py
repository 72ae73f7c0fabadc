"""Read and write single entries of a dense tensor, whatever its memory layout."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import InvalidValue


def read(tensor: Tensor, positions: Tensor) -> Tensor:
    """Return the entries at flat row-major positions, as a new vector of the tensor's dtype."""
    if not tensor.is_contiguous() and not is_dense(tensor):
        tensor = tensor.contiguous()
    return _storage(tensor.detach()).index_select(0, _places(tensor, positions))


def write(tensor: Tensor, positions: Tensor, values: Tensor, *, counted: bool = True) -> None:
    """Put values of the tensor's dtype at flat row-major positions, in place.

    counted: autograd learns of the change, so that a graph that still needs the old values raises.
    """
    target = tensor.detach() if counted else tensor.data
    _storage(target).index_copy_(0, _places(tensor, positions), values)


def is_dense(tensor: Tensor) -> bool:
    """Tell whether the entries fill one block of memory, in any order (channels_last does)."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return last + 1 == tensor.numel()


def check_layout(name: str, tensor: Tensor) -> None:
    """Raise InvalidValue when the entries cannot be written in place."""
    if not is_dense(tensor):
        raise InvalidValue(f"{name} is a strided view of another tensor: make it contiguous first")


def _storage(tensor: Tensor) -> Tensor:
    if tensor.is_contiguous():
        return tensor.view(-1)
    return tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())


def _places(tensor: Tensor, positions: Tensor) -> Tensor:
    """Return where row-major positions lie in memory."""
    if tensor.is_contiguous():
        return positions
    places, rest = torch.zeros_like(positions), positions
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride())):
        quotient = torch.div(rest, size, rounding_mode="floor")
        places += (rest - quotient * size) * stride
        rest = quotient
    return places

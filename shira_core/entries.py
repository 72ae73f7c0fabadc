"""Read and write single entries of a dense tensor, whatever its dtype and memory layout.

`index_select` and `index_copy_` on the flat storage: measured several times faster than fancy
indexing, and up to 40 times faster than `scatter_` on 16-bit floats. 8-bit floats have no index
operations, so their bits are moved as uint8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import InvalidValue


def read(tensor: Tensor, positions: Tensor) -> Tensor:
    """Return the entries at flat row-major positions, as a new vector of the tensor's dtype."""
    if not tensor.is_contiguous() and not is_dense(tensor):
        tensor = tensor.contiguous()
    return read_places(tensor, places(tensor, positions))


def write(tensor: Tensor, positions: Tensor, values: Tensor, *, counted: bool = True) -> None:
    """Put values of the tensor's dtype at flat row-major positions, in place.

    counted: autograd learns of the change, so that a graph that still needs the old values raises.
    """
    write_places(tensor, places(tensor, positions), values, counted=counted)


def places(tensor: Tensor, positions: Tensor) -> Tensor:
    """Return where row-major positions lie in a dense tensor's memory; they depend on its strides.

    `read_places` and `write_places` take them, for whoever reads and writes many times.
    """
    if tensor.is_contiguous():
        return positions
    found, rest = torch.zeros_like(positions), positions
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        quotient = torch.div(rest, size, rounding_mode="floor")
        found += (rest - quotient * size) * stride
        rest = quotient
    return found


def compact(numbers: Tensor, end: int) -> Tensor:
    """Return int64 numbers in 0..end - 1 as int32 where that holds them: half the memory."""
    return numbers.int() if end <= torch.iinfo(torch.int32).max else numbers


def read_places(tensor: Tensor, places: Tensor) -> Tensor:
    """Return the entries at places, int32 or int64, in a dense tensor's memory."""
    return _storage(tensor.detach()).index_select(0, places).view(tensor.dtype)


def write_places(tensor: Tensor, places: Tensor, values: Tensor, *, counted: bool = True) -> None:
    """Put values at places, int32 or int64, in a dense tensor's memory, as `write` does."""
    target = tensor.detach() if counted else tensor.data
    with torch.inference_mode(tensor.is_inference()):
        storage = _storage(target)
        storage.index_copy_(0, places.long(), values.view(storage.dtype))


def within(values: Tensor, limit: float) -> bool:
    """Tell whether all values lie in -limit..limit; NaN does not."""
    if not values.numel():
        return True
    wide = values if values.dtype == torch.float64 else values.float()
    least, most = torch.aminmax(wide)  # measured eight times faster than isfinite on 16 bits
    return -limit <= least.item() and most.item() <= limit


def finite(values: Tensor) -> bool:
    """Tell whether no value is NaN or infinite."""
    return within(values, torch.finfo(values.dtype).max)


def is_dense(tensor: Tensor) -> bool:
    """Tell whether the entries fill one block of memory, in any order (channels_last does)."""
    step = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != step:
            return False
        step *= size
    return True


def check_layout(name: str, tensor: Tensor) -> None:
    """Raise InvalidValue when the entries cannot be written in place."""
    if tensor.is_meta:
        raise InvalidValue(f"{name} is on the meta device: load the model's weights first")
    if not tensor.dtype.is_floating_point:
        raise InvalidValue(
            f"{name} holds {tensor.dtype}: this model is quantised, and its weights cannot be "
            "edited in place"
        )
    if not is_dense(tensor):
        raise InvalidValue(f"{name} is a strided view of another tensor: make it contiguous first")


def _storage(tensor: Tensor) -> Tensor:
    """Return the entries as a vector in memory order, 8-bit floats as their bits."""
    if tensor.is_contiguous():
        flat = tensor.view(-1)
    else:
        flat = tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())
    return flat.view(torch.uint8) if tensor.dtype.itemsize == 1 else flat

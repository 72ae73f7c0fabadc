"""One dense tensor of a safetensors file, read by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO

import torch
from torch import Tensor

from .container import Container
from .errors import FileInvalid

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
NUMBERS = DTYPES | {"I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool}


def read_tensor(
    file: BinaryIO,
    container: Container,
    name: str,
    dtypes: Mapping[str, torch.dtype] = DTYPES,
) -> Tensor:
    """Return a tensor of an open file, in memory of its own.

    Raises FileInvalid for another dtype, and when the file ends within the tensor.
    """
    info = container.tensors[name]
    if info.dtype not in dtypes:
        raise FileInvalid(
            f"{name} is stored as {info.dtype}: this file is quantised; use the one in float16, "
            "bfloat16 or float32"
        )
    raw = torch.empty(info.end - info.begin, dtype=torch.uint8)
    file.seek(container.data_start + info.begin)
    if file.readinto(raw.numpy()) != len(raw):  # type: ignore[attr-defined]
        raise FileInvalid("it is cut short: get it again")
    return raw.view(dtypes[info.dtype]).view(info.shape)

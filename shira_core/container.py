"""Reading the header of any safetensors file, trusting nothing. Standard library only."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

from .errors import FileInvalid

MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors format
DTYPE_BYTES = {
    **{"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2},
    **{"I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1},
}


class TensorInfo(NamedTuple):
    """One tensor of a file: dtype name, shape, and byte range counted from the data's start."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Container(NamedTuple):
    """The header of a safetensors file."""

    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]
    data_start: int


def read_header(path: str | Path) -> Container:
    """Read and check a safetensors header; raises FileInvalid.

    Afterwards every byte range lies inside the file, fits its dtype and shape, and together the
    ranges cover the data exactly, without holes or overlaps.
    """
    path = Path(path)
    if path.is_dir():
        raise FileInvalid(f"{path} is a folder: name the file inside it")
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            start = file.read(8)
            _refuse_pickle(path, start)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if len(start) < 8 or not 2 <= length <= size - 8 or length > MAX_HEADER:
                raise FileInvalid(
                    f"{path} is not a safetensors file or is cut short ({size} bytes): "
                    "fetch it again"
                )
            raw = file.read(length)
    except FileNotFoundError:
        raise FileInvalid(f"{path} does not exist: check the name") from None
    except OSError as error:
        raise FileInvalid(f"{path} cannot be read: {error.strerror or error}") from error
    return _parse(path, raw, size - 8 - length, 8 + length)


def _refuse_pickle(path: Path, start: bytes) -> None:
    if start[:2] == b"PK" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"):
        raise FileInvalid(
            f"{path} is a PyTorch pickle, which can run code when opened and is never loaded "
            "here: get or convert it as .safetensors"
        )


def _parse(path: Path, raw: bytes, data_bytes: int, data_start: int) -> Container:
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise FileInvalid(f"{path} has a damaged header ({error}): fetch it again") from None
    if not isinstance(header, dict):
        raise FileInvalid(f"{path} has a damaged header (no JSON object): fetch it again")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FileInvalid(f"{path} has metadata that is not text: fetch it again")
    tensors = {name: _tensor(path, name, entry) for name, entry in header.items()}
    _check_cover(path, tensors, data_bytes)
    return Container(metadata, tensors, data_start)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _tensor(path: Path, name: str, entry: Any) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(n) is int and 0 <= n < 1 << 48 for n in (*shape, begin, end))
        fits = whole and end - begin == math.prod(shape) * DTYPE_BYTES.get(dtype, 0)
        if fits and (dtype in DTYPE_BYTES):
            return TensorInfo(dtype, shape, begin, end)
        if whole and isinstance(dtype, str) and dtype not in DTYPE_BYTES and begin <= end:
            return TensorInfo(dtype, shape, begin, end)
    except (KeyError, TypeError, ValueError):
        pass
    raise FileInvalid(
        f"{path} describes {name!r} wrongly (dtype, shape or offsets): fetch it again"
    )


def _check_cover(path: Path, tensors: dict[str, TensorInfo], data_bytes: int) -> None:
    position = 0
    for name, info in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if info.begin != position:
            raise FileInvalid(f"{path} has overlapping or missing data at {name!r}: fetch it again")
        position = info.end
    if position != data_bytes:
        raise FileInvalid(
            f"{path} should hold {position} bytes of data and holds {data_bytes}: "
            "it is cut short or damaged, fetch it again"
        )

"""Reading the header of any safetensors file, trusting nothing. Standard library only."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .errors import FileInvalid

MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors format
MAX_DEPTH = 16  # of objects and lists inside each other in JSON
DTYPE_BYTES = {
    **{"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2},
    **{"I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1},
}
_MAX_AXES = 64  # as torch; a product of very many sizes would take very long
_MAX_DIGITS = 20  # of an integer in JSON: 64 bits and a sign
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class TensorInfo(NamedTuple):
    """One tensor of a file: dtype name, shape, and byte range counted from the data's start."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Container(NamedTuple):
    """The header of a safetensors file.

    data_start: where the data begins in the file. identity: tells when the file was replaced.
    """

    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]
    data_start: int
    identity: tuple[int, ...] = ()


def read_header(path: str | Path, limit: int = MAX_HEADER) -> Container:
    """Read and check a safetensors header of at most `limit` bytes; raises FileInvalid.

    Afterwards every byte range lies inside the file, fits its dtype and shape, and together the
    ranges cover the data exactly, without holes or overlaps.
    """
    path = Path(path)
    try:
        _refuse_irregular(path.stat().st_mode)
        with path.open("rb") as file:
            identity = _identity(file)
            size = identity[0]
            start = file.read(9)
            raw = start[8:] + file.read(_header_length(start, size, limit) - 1)
        return parse(raw, size - 8 - len(raw))._replace(identity=identity)
    except FileNotFoundError:
        raise FileInvalid(f"{path} does not exist: check the name") from None
    except OSError as error:
        raise FileInvalid(f"{path} cannot be read: {error.strerror or error}") from error
    except FileInvalid as error:
        raise FileInvalid(f"{path}: {error}") from None


def open_data(path: Path, container: Container) -> BinaryIO:
    """Open the file of a header for reading; raises FileInvalid when it was replaced since."""
    file = path.open("rb")
    if _identity(file) != container.identity:
        file.close()
        raise FileInvalid("it was changed after it was loaded: load it again")
    return file


def parse(raw: bytes, data_bytes: int) -> Container:
    """Check a JSON header and the number of data bytes after it; raises FileInvalid."""
    try:
        header = strict_json(raw.decode("utf-8"))
    except ValueError as error:
        raise FileInvalid(f"its header is damaged ({error}): get it again") from None
    if not isinstance(header, dict):
        raise FileInvalid("its header is damaged (no JSON object): get it again")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FileInvalid("its metadata is not text: get it again")
    tensors = {name: _tensor(name, entry) for name, entry in header.items()}
    _check_cover(tensors, data_bytes)
    return Container(metadata, tensors, 8 + len(raw))


def strict_json(text: str) -> Any:
    """Decode JSON; raises ValueError also for what JSON readers treat differently.

    That is: a name twice in one object, NaN and infinities, integers of more than 64 bits, halves
    of surrogate pairs, which cannot be written again, and nesting deeper than MAX_DEPTH.
    """
    try:
        values = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_depth(values)
    if _SURROGATE.search(text):
        json.dumps(values, ensure_ascii=False).encode("utf-8")
    return values


def _check_depth(values: Any) -> None:
    level = _inside([values])
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _inside(item)]
    if level:
        raise ValueError("it is nested too deeply")


def _inside(value: Any) -> Iterable[Any]:
    """Return the objects and lists in an object or list."""
    children = value.values() if isinstance(value, dict) else value
    return [child for child in children if isinstance(child, (dict, list))]


def _refuse_irregular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise FileInvalid("it is a folder: name the file inside it")
    if not stat.S_ISREG(mode):
        raise FileInvalid("it is a pipe or device: name a file on disk")


def _identity(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _header_length(start: bytes, size: int, limit: int) -> int:
    """Return the length that the first 8 bytes give; the ninth must open a JSON object."""
    length = int.from_bytes(start[:8], "little")
    fits = 2 <= length <= size - 8
    if start[8:] == b"{" and fits and length <= limit:
        return length
    if start.startswith(_PICKLES):
        raise FileInvalid(
            "it is a PyTorch pickle, which can run code when opened and is never loaded here: "
            "get or convert it as .safetensors"
        )
    if start[8:] == b"{" and fits:
        raise FileInvalid(f"its header has {length} bytes, more than {limit}: get another file")
    raise FileInvalid(f"it is no safetensors file or is cut short ({size} bytes): get it again")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError("an integer has too many digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number


def _tensor(name: str, entry: Any) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(n) is int and 0 <= n < 1 << 48 for n in (*shape, begin, end))
        if whole and isinstance(dtype, str) and len(shape) <= _MAX_AXES and begin <= end:
            width = DTYPE_BYTES.get(dtype)  # newer dtypes may stand in a checkpoint, unread
            if width is None or end - begin == math.prod(shape) * width:
                return TensorInfo(dtype, shape, begin, end)
    except (KeyError, TypeError, ValueError):
        pass
    raise FileInvalid(f"it describes {name!r:.120} wrongly (dtype, shape or offsets): get it again")


def _check_cover(tensors: dict[str, TensorInfo], data_bytes: int) -> None:
    position = 0
    for name, info in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if info.begin != position:
            raise FileInvalid(f"it has overlapping or missing data at {name!r:.120}: get it again")
        position = info.end
    if position != data_bytes:
        raise FileInvalid(
            f"it should hold {position} bytes of data and holds {data_bytes}: it is cut short or "
            "damaged, get it again"
        )

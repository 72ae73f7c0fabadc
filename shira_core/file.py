"""Read and write `.shira` files (docs/format.md): lazy weights in, one atomic file out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from . import format as layout
from . import positions as gaps_codec
from .adapter import Adapter
from .atomic import atomic_write, refuse_existing
from .container import TensorInfo
from .errors import FileInvalid, InvalidValue
from .header import FORMAT_VERSION, for_other_tools, to_json
from .mask import Mask, Shape, SparseDelta, Struct
from .struct import count_of, positions_of

MAX_HEADER = 1 << 20  # larger headers are not shown by ComfyUI and hub sites
_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U8": torch.uint8,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_Identity = tuple[int, int]


def load(path: str | Path) -> Adapter:
    """Open a `.shira` file, or its `.safetensors` twin; weights are read when they are used.

    Raises FileInvalid when the file is missing, damaged, hostile or something else.
    """
    path = Path(path)
    found = layout.read(path)
    return Adapter(found.header, FileWeights(path, found), path)


class FileWeights:
    """The weights of one file, read one by one; holds no open file."""

    def __init__(self, path: Path, found: layout.Layout) -> None:
        self._path, self._records = path, found.records
        self._start = found.container.data_start
        self._identity = _identity(os.stat(path))

    def __getitem__(self, name: str) -> SparseDelta:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def shape(self, name: str) -> Shape:
        return self._records[name].shape

    def count(self, name: str) -> int:
        return self._records[name].count

    def origin(self, name: str) -> str:
        return name

    def read(self, name: str, device: torch.device | str = "cpu") -> SparseDelta:
        """Read and check one delta; raises FileInvalid, also when the file was replaced."""
        record = self._records[name]
        try:
            with self._path.open("rb") as file:
                if _identity(os.fstat(file.fileno())) != self._identity:
                    raise FileInvalid("it was changed after it was loaded: load it again")
                values = self._tensor(file, record.values)
                mask = self._mask(file, record, device)
            if not bool(torch.isfinite(values).all()):
                raise FileInvalid(f"{name} holds NaN or infinite values: get it again")
        except OSError as error:
            raise FileInvalid(f"{self._path} cannot be read: {error.strerror or error}") from error
        except FileInvalid as error:
            raise FileInvalid(f"{self._path}: {error}") from None
        return SparseDelta(mask, values.to(device))

    def _mask(self, file: BinaryIO, record: layout.Record, device: torch.device | str) -> Mask:
        if record.gaps is not None:
            gaps = self._tensor(file, record.gaps).to(device)
            numel = torch.Size(record.shape).numel()
            return Mask(record.shape, gaps_codec.decode(gaps, numel, record.count))
        struct = Struct(
            self._lines(file, record.rows, record.shape[0]),
            self._lines(file, record.columns, record.shape[1]),
            record.diagonal,
        )
        if count_of(record.shape, struct) != record.count:
            raise FileInvalid("its rows and columns do not fit its values: get it again")
        return Mask(record.shape, positions_of(record.shape, struct, device), struct)

    def _lines(self, file: BinaryIO, info: TensorInfo | None, size: int) -> Tensor:
        """Return row or column numbers, int64, strictly increasing below `size`."""
        if info is None:
            return torch.empty(0, dtype=torch.int64)
        lines = self._tensor(file, info).to(torch.int64)
        inside = not len(lines) or (bool(lines[0] >= 0) and bool(lines[-1] < size))
        if not inside or bool((torch.diff(lines) <= 0).any()):
            raise FileInvalid("its rows or columns are unsorted or out of range: get it again")
        return lines

    def _tensor(self, file: BinaryIO, info: TensorInfo) -> Tensor:
        tensor = torch.empty(info.shape, dtype=_DTYPES[info.dtype])
        if not tensor.numel():
            return tensor
        file.seek(self._start + info.begin)
        if file.readinto(tensor.view(torch.uint8).numpy()) != info.end - info.begin:  # type: ignore[attr-defined]
            raise FileInvalid("it is cut short: get it again")
        return tensor


@dataclass(frozen=True)
class _Stored:
    """One tensor on its way into a file; values are read again when it is written."""

    name: str
    dtype: torch.dtype
    count: int
    tensor: Tensor | None = None


def write(
    adapter: Adapter, path: str | Path, *, overwrite: bool = False, dtype: torch.dtype | None = None
) -> Path:
    """Write an adapter atomically and return the path.

    dtype: float16, bfloat16 or float32 for all values; by default each keeps its own.
    Raises FileExists, WriteFailed, and InvalidValue for values or positions that cannot be stored.
    """
    path = Path(path)
    refuse_existing(path, overwrite)
    if dtype is not None and _NAMES.get(dtype) not in layout.VALUE_DTYPES:
        raise InvalidValue(f"dtype {dtype} cannot be stored: use float16, bfloat16 or float32")
    table, stored = _prepare(adapter, dtype)
    blank = _header_bytes(adapter, table, stored, "0" * 64)
    digest = hashlib.sha256()
    with atomic_write(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
        file.write(blank)
        for item in stored:
            data = item.tensor if item.tensor is not None else _values(adapter, item)
            block = data.contiguous().view(torch.uint8).numpy().data
            digest.update(block)
            file.write(block)
        file.seek(0)
        file.write(_header_bytes(adapter, table, stored, digest.hexdigest()))
    return path


def _prepare(
    adapter: Adapter, dtype: torch.dtype | None
) -> tuple[dict[str, dict[str, Any]], list[_Stored]]:
    """Return the table of weights, and the tensors in file order: by falling size of an element."""
    table: dict[str, dict[str, Any]] = {}
    stored: list[_Stored] = []
    for name in sorted(adapter.weights):
        delta = adapter.weights.read(name)
        if not delta.count:
            continue
        _check(name, delta)
        table[name] = {"shape": list(delta.shape)}
        stored.append(_Stored(f"{name}.values", dtype or delta.values.dtype, delta.count))
        struct = delta.mask.struct
        if struct is None:
            lists = {"gaps": gaps_codec.encode(delta.positions)}
        else:
            lists = {"rows": struct.rows.int(), "columns": struct.columns.int()}
            table[name] |= {"diagonal": True} if struct.diagonal else {}
        stored += [
            _Stored(f"{name}.{part}", tensor.dtype, tensor.numel(), tensor)
            for part, tensor in lists.items()
            if tensor.numel()
        ]
    if not table:
        raise InvalidValue("the adapter changes no entry: there is nothing to write")
    return table, sorted(stored, key=lambda item: (-item.dtype.itemsize, item.name))


def _check(name: str, delta: SparseDelta) -> None:
    """Raise InvalidValue for what a reader would refuse."""
    positions, struct = delta.positions, delta.mask.struct
    if len(positions) != len(delta.values) or _NAMES.get(delta.values.dtype) is None:
        raise InvalidValue(f"{name} has {len(positions)} positions and {len(delta.values)} values")
    inside = int(positions[0]) >= 0 and int(positions[-1]) < torch.Size(delta.shape).numel()
    if not inside or bool((torch.diff(positions) <= 0).any()):
        raise InvalidValue(f"{name} has positions that are unsorted or outside of the weight")
    if struct is not None and not torch.equal(positions_of(delta.shape, struct), positions):
        raise InvalidValue(f"{name} has positions that its rows and columns do not give")


def _values(adapter: Adapter, item: _Stored) -> Tensor:
    """Return the values of a weight in the dtype of the file."""
    name = item.name.removesuffix(".values")
    values = adapter.weights.read(name).values.to(item.dtype)
    if not bool(torch.isfinite(values).all()):
        raise InvalidValue(
            f"{name} holds values that are no finite {item.dtype}: the training diverged, or save "
            "with dtype=torch.bfloat16 or torch.float32"
        )
    return values


def _header_bytes(
    adapter: Adapter, table: dict[str, dict[str, Any]], stored: list[_Stored], digest: str
) -> bytes:
    """Return the length and the JSON header, padded so that the data starts at a multiple of 8."""
    own = {"version": FORMAT_VERSION, **to_json(adapter.header), "weights": table}
    metadata = {
        **adapter.header.extra,
        **for_other_tools(adapter.header),
        "format": "pt",
        layout.HASH: digest,
        layout.KEY: json.dumps(own, ensure_ascii=False, separators=(",", ":")),
    }
    entries: dict[str, Any] = {"__metadata__": metadata}
    begin = 0
    for item in stored:
        end = begin + item.count * item.dtype.itemsize
        entries[item.name] = {
            "dtype": _NAMES[item.dtype],
            "shape": [item.count],
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise InvalidValue(
            f"the header would be {len(text)} bytes, and {MAX_HEADER} is the limit: shorten the "
            "description or make the preview smaller"
        )
    return len(text).to_bytes(8, "little") + text


def _identity(status: os.stat_result) -> _Identity:
    return status.st_size, status.st_mtime_ns

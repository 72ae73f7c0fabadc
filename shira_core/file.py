"""Read and write `.shira` files (docs/format.md): lazy weights in, one atomic file out."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from . import format as layout
from .adapter import Adapter
from .atomic import atomic_write, refuse_existing
from .container import TensorInfo, open_data, parse
from .entries import finite
from .errors import FileInvalid, InvalidValue
from .header import FORMAT_VERSION, Header, for_other_tools, to_json
from .mask import Mask, Shape, SparseDelta, Struct
from .positions import decode, encode
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


def load(path: str | Path) -> Adapter:
    """Open a `.shira` file, or its `.safetensors` twin; weights are read when they are used.

    Raises FileInvalid when the file is missing, damaged, hostile or something else.
    """
    path = Path(path)
    found = layout.read(path)
    return Adapter(found.header, FileWeights(path, found), path)


class FileWeights:
    """The weights of one file, read one by one; holds no open file and no values."""

    def __init__(self, path: Path, found: layout.Layout) -> None:
        self._path, self._records, self._container = path, found.records, found.container
        self._structs: dict[tuple[object, ...], Mask] = {}

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
        try:
            with open_data(self._path, self._container) as file:
                return self._delta(file, name, device)
        except OSError as error:
            raise FileInvalid(f"{self._path} cannot be read: {error.strerror or error}") from error
        except FileInvalid as error:
            raise FileInvalid(f"{self._path}: {error}") from None

    def _delta(self, file: BinaryIO, name: str, device: torch.device | str) -> SparseDelta:
        record = self._records[name]
        try:
            values = self._tensor(file, record.values)
            if not finite(values):
                raise FileInvalid("NaN or infinite values")
            return SparseDelta(self._mask(file, record, device), values.to(device))
        except FileInvalid as error:
            raise FileInvalid(f"{name} has {error}: get it again") from None

    def _mask(self, file: BinaryIO, record: layout.Record, device: torch.device | str) -> Mask:
        if record.gaps is not None:
            gaps = self._tensor(file, record.gaps).to(device)
            positions = decode(gaps, math.prod(record.shape), record.count)
            return Mask(record.shape, positions)
        struct = Struct(
            self._lines(file, record.rows, record.shape[0]),
            self._lines(file, record.columns, record.shape[1]),
            record.diagonal,
        )
        if count_of(record.shape, struct) != record.count:
            raise FileInvalid("rows and columns that do not match its values in number")
        return self._struct_mask(record.shape, struct, device)

    def _struct_mask(self, shape: Shape, struct: Struct, device: torch.device | str) -> Mask:
        """Return the mask of a descriptor, one for all layers that have the same."""
        lines = (lines.numpy().tobytes() for lines in (struct.rows, struct.columns))
        key = (shape, *lines, struct.diagonal, str(device))
        if key not in self._structs:
            self._structs[key] = Mask(shape, positions_of(shape, struct, device), struct)
        return self._structs[key]

    def _lines(self, file: BinaryIO, info: TensorInfo | None, size: int) -> Tensor:
        """Return row or column numbers, int64, strictly increasing below `size`."""
        if info is None:
            return torch.empty(0, dtype=torch.int64)
        lines = self._tensor(file, info).to(torch.int64)
        if not _increasing(lines, size):
            raise FileInvalid("rows or columns that are unsorted, repeated or out of range")
        return lines

    def _tensor(self, file: BinaryIO, info: TensorInfo) -> Tensor:
        tensor = torch.empty(info.shape, dtype=_DTYPES[info.dtype])
        file.seek(self._container.data_start + info.begin)
        if _into(file, tensor) != info.end - info.begin:
            raise FileInvalid("too few bytes")
        return tensor


def _into(file: BinaryIO, tensor: Tensor) -> int:
    """Fill a tensor from a file; return how many bytes came."""
    target = tensor.view(torch.uint8).numpy()
    return file.readinto(target) if target.size else 0  # type: ignore[attr-defined]


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
    """Write an adapter atomically and return the path. One adapter always gives the same bytes.

    dtype: float16, bfloat16 or float32 for all values; by default each keeps its own. Weights
    without entries are left out.
    Raises FileExists, WriteFailed, and InvalidValue for what a reader would refuse.
    """
    path = Path(path)
    refuse_existing(path, overwrite)
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
        kept = dtype or delta.values.dtype
        _check(name, delta, kept)
        table[name] = {"shape": list(delta.shape)}
        stored.append(_Stored(f"{name}.values", kept, delta.count))
        struct = delta.mask.struct
        if struct is None:
            lists = {"gaps": encode(delta.positions)}
        else:
            lists = {"rows": struct.rows.cpu().int(), "columns": struct.columns.cpu().int()}
            table[name] |= {"diagonal": True} if struct.diagonal else {}
        stored += [
            _Stored(f"{name}.{part}", tensor.dtype, tensor.numel(), tensor)
            for part, tensor in lists.items()
            if tensor.numel()
        ]
    if not table:
        raise InvalidValue("the adapter changes no entry: there is nothing to write")
    return table, sorted(stored, key=lambda item: (-item.dtype.itemsize, item.name))


def _check(name: str, delta: SparseDelta, kept: torch.dtype) -> None:
    """Raise InvalidValue for entries that a reader would refuse, except values, see `_values`."""
    positions, values = delta.positions, delta.values
    if _NAMES.get(kept) not in layout.VALUE_DTYPES:
        raise InvalidValue(f"{name}: {kept} cannot be stored: use float16, bfloat16 or float32")
    if positions.dtype != torch.int64 or positions.shape != values.shape or values.ndim != 1:
        raise InvalidValue(
            f"{name} has {tuple(positions.shape)} positions and {tuple(values.shape)} values: "
            "give one vector of int64 positions and as many values"
        )
    if not _increasing(positions, math.prod(delta.shape)):
        raise InvalidValue(f"{name} has positions that are unsorted, repeated or outside of it")
    if delta.mask.struct is not None and not _describes(delta.mask.struct, delta):
        raise InvalidValue(f"{name} has positions that its rows and columns do not give")


def _describes(struct: Struct, delta: SparseDelta) -> bool:
    """Tell whether a descriptor is valid and gives the positions of a delta."""
    shape = delta.shape
    return (
        len(shape) > 1
        and _increasing(struct.rows, shape[0])
        and _increasing(struct.columns, shape[1])
        and torch.equal(positions_of(shape, struct), delta.positions)
    )


def _increasing(numbers: Tensor, limit: int) -> bool:
    """Tell whether numbers increase strictly and lie in [0, limit)."""
    if not len(numbers):
        return True
    inside = bool(numbers[0] >= 0) and bool(numbers[-1] < limit)
    return inside and bool((numbers[1:] > numbers[:-1]).all())


def _values(adapter: Adapter, item: _Stored) -> Tensor:
    """Return the values of a weight in the dtype of the file."""
    name = item.name.removesuffix(".values")
    values = adapter.weights.read(name).values.to(item.dtype)
    if not finite(values):
        raise InvalidValue(
            f"{name} holds values that are no finite {item.dtype}: the training diverged, or save "
            "with dtype=torch.bfloat16 or torch.float32"
        )
    return values


def _header_bytes(
    adapter: Adapter, table: dict[str, dict[str, Any]], stored: list[_Stored], digest: str
) -> bytes:
    """Return the length and the JSON header, padded so that the data starts at a multiple of 8."""
    entries: dict[str, Any] = {"__metadata__": _metadata(adapter.header, table, digest)}
    begin = 0
    for item in stored:
        end = begin + item.count * item.dtype.itemsize
        entries[item.name] = {
            "dtype": _NAMES[item.dtype],
            "shape": [item.count],
            "data_offsets": [begin, end],
        }
        begin = end
    text = _json(entries).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise InvalidValue(
            f"the header would be {len(text)} bytes, and {MAX_HEADER} is the limit: shorten the "
            "description or make the preview smaller"
        )
    try:
        layout.check(parse(text, begin))
    except FileInvalid as error:
        reason = str(error).removesuffix(": get it again")
        raise InvalidValue(f"the adapter cannot be stored: {reason}") from None
    return len(text).to_bytes(8, "little") + text


def _metadata(header: Header, table: dict[str, dict[str, Any]], digest: str) -> dict[str, str]:
    own = {"version": FORMAT_VERSION, **to_json(header), "weights": table}
    metadata = {
        **header.extra,
        **for_other_tools(header),
        "format": "pt",
        layout.HASH: digest,
        layout.KEY: _json(own),
    }
    return dict(sorted(metadata.items()))


def _json(value: Any) -> str:
    """Encode as UTF-8 can hold it; raises InvalidValue for what JSON cannot say."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidValue(f"the header cannot be stored as JSON: {error}") from None
    return text

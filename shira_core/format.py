"""The layout of a `.shira` file, version 1 (docs/format.md). Standard library only.

A safetensors file. Its metadata key "shira" holds JSON: the header's fields, "version", and
"weights", the shape of each changed weight. Each weight NAME has the tensor NAME.values and either
NAME.gaps (unstructured) or any of NAME.rows and NAME.columns with "diagonal" in its JSON (Struct).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .container import Container, TensorInfo, read_header, strict_json
from .errors import FileInvalid
from .header import FORMAT_VERSION, Header, from_json

KEY, HASH = "shira", "sshs_model_hash"
VALUE_DTYPES = ("F16", "BF16", "F32")
# Bounds of what a hostile file can make a reader allocate, far above any real weight.
MAX_HEADER = 1 << 23  # bytes; `file.write` stays far below
MAX_NAME = 500
MAX_AXES, MAX_AXIS, MAX_NUMEL = 8, 1 << 24, 1 << 32
MAX_STRUCT_AXIS = 1 << 20  # Struct positions take memory for each row, even an empty one
PARTS = ("values", "gaps", "rows", "columns")
OWN_KEYS = (KEY, HASH, "format")


@dataclass(frozen=True)
class Record:
    """One weight as the file describes it; tensors are None where the file has none."""

    shape: tuple[int, ...]
    values: TensorInfo
    gaps: TensorInfo | None
    rows: TensorInfo | None
    columns: TensorInfo | None
    diagonal: bool

    @property
    def count(self) -> int:
        """Number of entries."""
        return self.values.shape[0]


@dataclass(frozen=True)
class Layout:
    """Everything that a `.shira` file says before its data."""

    header: Header
    records: Mapping[str, Record]
    container: Container


def read(path: str | Path) -> Layout:
    """Read and check the header of a `.shira` file; raises FileInvalid.

    Afterwards each weight has a sane shape, values that fit into it, and positions in one of the
    two forms; what is left to check are the numbers themselves.
    """
    container = read_header(path, MAX_HEADER)
    try:
        return check(container)
    except FileInvalid as error:
        raise FileInvalid(f"{path}: {error}") from None


def check(container: Container) -> Layout:
    """Return the layout that a safetensors header describes; raises FileInvalid."""
    if KEY not in container.metadata:
        raise FileInvalid(_what_else(container))
    values = _json(container.metadata[KEY])
    version = values.get("version")
    if type(version) is not int or version < 1:
        raise FileInvalid("it names no format version: get it again")
    if version > FORMAT_VERSION:
        raise FileInvalid(
            f"it has format version {version} and this SHiRA reads up to {FORMAT_VERSION}: "
            "update SHiRA"
        )
    others = {k: v for k, v in container.metadata.items() if k not in OWN_KEYS}
    return Layout(from_json(values, others), _records(container, values.get("weights")), container)


def _what_else(container: Container) -> str:
    """Say what a safetensors file that is no adapter of ours may be."""
    names = container.tensors
    if any(".lora_" in name or name.startswith("lora_") for name in names):
        return (
            "it is a LoRA, not a SHiRA adapter: load it with your LoRA loader, or make an adapter "
            "of it (shira convert)"
        )
    if any(name.endswith(".shira_weight") for name in names):
        return "it is SHiRA as PEFT saves it: make an adapter of its folder (shira convert)"
    if any(name.startswith(("model.diffusion_model.", "first_stage_model.")) for name in names):
        return "it is a whole model, not a SHiRA adapter: name a .shira file"
    return "it is no SHiRA adapter (its metadata has no 'shira'): name a .shira file"


def _json(text: str) -> dict[str, Any]:
    try:
        values = strict_json(text)
    except ValueError as error:
        raise FileInvalid(f"its metadata 'shira' is damaged ({error}): get it again") from None
    if not isinstance(values, dict):
        raise FileInvalid("its metadata 'shira' is no JSON object: get it again")
    return values


def _records(container: Container, table: Any) -> dict[str, Record]:
    if not isinstance(table, dict) or not table:
        raise FileInvalid("it lists no weights: get it again")
    tensors = dict(container.tensors)
    records = {}
    for name, entry in table.items():
        found = {part: tensors.pop(f"{name}.{part}", None) for part in PARTS}
        records[name] = _record(name, entry, found)
    if tensors:
        name = next(iter(tensors))
        raise FileInvalid(f"its tensor {name!r:.120} belongs to no weight: get it again")
    return records


def _record(name: str, entry: Any, found: dict[str, TensorInfo | None]) -> Record:
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise FileInvalid(f"{name!r:.120} is no name of a weight: get it again")
    shape, diagonal = _shape_and_diagonal(name, entry)
    values, gaps, rows, columns = (found[part] for part in PARTS)
    if values is None or values.dtype not in VALUE_DTYPES or len(values.shape) != 1:
        raise FileInvalid(f"{name} has no values in {', '.join(VALUE_DTYPES)}: get it again")
    struct = diagonal or rows is not None or columns is not None
    if struct == (gaps is not None):
        raise FileInvalid(f"{name} has no positions, or two kinds of them: get it again")
    if struct and (len(shape) < 2 or shape[0] > MAX_STRUCT_AXIS):
        raise FileInvalid(f"{name} has no rows and columns of a sane size: get it again")
    count, numel = values.shape[0], math.prod(shape)
    if not 1 <= count <= numel:
        raise FileInvalid(f"{name} has {count} entries in a weight of {numel}: get it again")
    if gaps is not None and (gaps.dtype != "U8" or len(gaps.shape) != 1 or gaps.shape[0] < 2):
        raise FileInvalid(f"{name} has gaps that are no U8 list: get it again")
    for lines in (rows, columns):
        if lines is not None and (lines.dtype != "I32" or len(lines.shape) != 1):
            raise FileInvalid(f"{name} has rows or columns that are no I32 list: get it again")
    return Record(shape, values, gaps, rows, columns, diagonal)


def _shape_and_diagonal(name: str, entry: Any) -> tuple[tuple[int, ...], bool]:
    if isinstance(entry, dict):
        shape, diagonal = entry.get("shape"), entry.get("diagonal", False)
        if (
            isinstance(shape, list)
            and 1 <= len(shape) <= MAX_AXES
            and all(type(size) is int and 1 <= size <= MAX_AXIS for size in shape)
            and math.prod(shape) <= MAX_NUMEL
            and isinstance(diagonal, bool)
        ):
            return tuple(shape), diagonal
    raise FileInvalid(f"{name} has no sane shape: get it again")

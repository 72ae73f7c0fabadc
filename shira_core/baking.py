"""Write a merged checkpoint, streaming: one tensor in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from . import entries
from .atomic import atomic_write, refuse_existing
from .check import check_fit
from .container import Container, TensorInfo, read_header
from .errors import FileInvalid
from .plan import Entries, Entry, alphas, as_stack, draft

CHUNK = 1 << 22
KEY = "shira.baked"
_STALE = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
Progress = Callable[[int, int], None]


def bake(
    checkpoint: str | Path,
    out: str | Path,
    stack: Entries,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write `checkpoint` with a stack added to `out`, atomically, and return that path.

    Names, dtypes and order stay; what was added is noted in the metadata. Memory: the largest
    tensor, and that weight's share of the adapters. progress: called with bytes done and in all.
    Raises FileInvalid, FileExists, WriteFailed, WeightMissing, ShapeMismatch, InvalidValue.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    refuse_existing(out, overwrite)
    wanted = as_stack(stack)
    source = read_header(checkpoint)
    shapes = {name: info.shape for name, info in source.tensors.items()}
    for entry in wanted:
        check_fit(entry.adapter, shapes)
    changed = {name for entry in wanted for name in entry.adapter.weights}
    order = sorted(source.tensors.items(), key=lambda item: item[1].begin)
    total = order[-1][1].end if order else 0
    with (
        atomic_write(out, overwrite) as temporary,
        checkpoint.open("rb") as read,
        temporary.open("wb") as write,
    ):
        write.write(_header(source, wanted))
        for name, info in order:
            read.seek(source.data_start + info.begin)
            if name in changed:
                _write_changed(checkpoint, read, write, name, info, wanted)
            else:
                _copy(checkpoint, read, write, info)
            if progress:
                progress(info.end, total)
    return out


def _header(source: Container, stack: Sequence[Entry]) -> bytes:
    """Return the source's header with a note of what was added."""
    kept = {key: value for key, value in source.metadata.items() if key not in _STALE}
    note = [
        {
            "adapter": entry.adapter.path.name
            if entry.adapter.path
            else entry.adapter.header.title,
            "alpha": entry.alpha.value,
            "components": dict(entry.alpha.components),
            "blocks": dict(entry.alpha.blocks),
        }
        for entry in stack
    ]
    content = {"__metadata__": {**kept, KEY: json.dumps(note, ensure_ascii=False)}} | {
        name: {"dtype": info.dtype, "shape": info.shape, "data_offsets": [info.begin, info.end]}
        for name, info in source.tensors.items()
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_changed(
    path: Path, read: BinaryIO, write: BinaryIO, name: str, info: TensorInfo, stack: Sequence[Entry]
) -> None:
    if info.dtype not in _DTYPES:
        raise FileInvalid(
            f"{path}: {name} is stored as {info.dtype}: this checkpoint is quantised; bake into "
            "the one in float16, bfloat16 or float32"
        )
    raw = torch.empty(info.end - info.begin, dtype=torch.uint8)
    if read.readinto(raw.numpy()) != len(raw):  # type: ignore[attr-defined]
        raise _cut(path)
    weight = raw.view(_DTYPES[info.dtype]).view(info.shape)
    _add(weight, name, stack)
    write.write(raw.numpy().data)


def _add(weight: Tensor, name: str, stack: Sequence[Entry]) -> None:
    """Add a stack to one weight in place."""
    share = [entry for entry in stack if name in entry.adapter.weights]
    plan = draft(share, name).bind(weight)
    entries.write(weight, plan.positions, plan.values(alphas(share, name)))


def _copy(path: Path, read: BinaryIO, write: BinaryIO, info: TensorInfo) -> None:
    left = info.end - info.begin
    while left:
        block = read.read(min(left, CHUNK))
        if not block:
            raise _cut(path)
        write.write(block)
        left -= len(block)


def _cut(path: Path) -> FileInvalid:
    return FileInvalid(f"{path} is cut short: fetch it again")

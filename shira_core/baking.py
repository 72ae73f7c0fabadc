"""Write a merged checkpoint, streaming: one tensor in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from . import entries
from .atomic import atomic_write, refuse_existing
from .check import check_fit
from .container import Container, TensorInfo, open_data, read_header, strict_json
from .dense import DTYPES
from .errors import FileInvalid
from .plan import Entries, Entry, alphas, as_stack, draft, read_all

CHUNK = 1 << 22
KEY = "shira.baked"
_STALE = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")
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
    _check(checkpoint, source, wanted)
    with (
        _open(checkpoint, source) as read,
        atomic_write(out, overwrite) as temporary,
        temporary.open("wb") as write,
    ):
        write.write(_header(source, wanted))
        _write_tensors(_Job(checkpoint, source, wanted, read, write), progress)
    return out


@dataclass(frozen=True)
class _Job:
    """What is read, what is added to it, and where it is written."""

    path: Path
    source: Container
    stack: Sequence[Entry]
    read: BinaryIO
    write: BinaryIO


def _check(path: Path, source: Container, stack: Sequence[Entry]) -> None:
    """Raise before anything is written when an adapter does not fit or a weight is quantised."""
    shapes = {name: info.shape for name, info in source.tensors.items()}
    for entry in stack:
        check_fit(entry.adapter, shapes)
        for name in entry.adapter.weights:
            dtype = source.tensors[name].dtype
            if dtype not in DTYPES:
                raise FileInvalid(
                    f"{path}: {name} is stored as {dtype}: this checkpoint is quantised; bake into "
                    "the one in float16, bfloat16 or float32"
                )


def _open(path: Path, source: Container) -> BinaryIO:
    try:
        return open_data(path, source)
    except OSError as error:
        raise FileInvalid(f"{path} cannot be read: {error.strerror or error}") from error
    except FileInvalid as error:
        raise FileInvalid(f"{path}: {error}") from None


def _header(source: Container, stack: Sequence[Entry]) -> bytes:
    """Return the source's header with a note of what was added."""
    kept = {key: value for key, value in source.metadata.items() if key not in _STALE}
    notes = [*_earlier(kept.get(KEY, "")), *map(_note, stack)]
    content = {"__metadata__": {**kept, KEY: json.dumps(notes, ensure_ascii=False)}} | {
        name: {"dtype": info.dtype, "shape": info.shape, "data_offsets": [info.begin, info.end]}
        for name, info in source.tensors.items()
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _earlier(text: str) -> list[object]:
    """Return the notes of an earlier baking into the same checkpoint."""
    try:
        notes = strict_json(text)
    except ValueError:
        return []
    return notes if isinstance(notes, list) else []


def _note(entry: Entry) -> dict[str, object]:
    adapter, alpha = entry.adapter, entry.alpha
    return {
        "adapter": adapter.path.name if adapter.path else adapter.header.title,
        "alpha": alpha.value,
        "components": dict(alpha.components),
        "blocks": dict(alpha.blocks),
    }


def _write_tensors(job: _Job, progress: Progress | None) -> None:
    changed = {name for entry in job.stack for name in entry.adapter.weights}
    order = sorted(job.source.tensors.items(), key=lambda item: item[1][2:])
    total = order[-1][1].end if order else 0
    job.read.seek(job.source.data_start)
    for name, info in order:
        if name in changed:
            _write_changed(job, name, info)
        else:
            _copy(job, info)
        if progress:
            progress(info.end, total)


def _write_changed(job: _Job, name: str, info: TensorInfo) -> None:
    raw = torch.empty(info.end - info.begin, dtype=torch.uint8)
    if job.read.readinto(raw.numpy()) != len(raw):  # type: ignore[attr-defined]
        raise _cut(job.path)
    weight = raw.view(DTYPES[info.dtype]).view(info.shape)
    _add(weight, name, job.stack)
    job.write.write(raw.numpy().data)


def _add(weight: Tensor, name: str, stack: Sequence[Entry]) -> None:
    """Add a stack to one weight in place."""
    share = [entry for entry in stack if name in entry.adapter.weights]
    plan = draft(name, read_all(share, name)).bind(weight)
    entries.write(weight, plan.positions, plan.values(alphas(share, name)))


def _copy(job: _Job, info: TensorInfo) -> None:
    left = info.end - info.begin
    while left:
        block = job.read.read(min(left, CHUNK))
        if not block:
            raise _cut(job.path)
        job.write.write(block)
        left -= len(block)


def _cut(path: Path) -> FileInvalid:
    return FileInvalid(f"{path} is cut short: get it again")

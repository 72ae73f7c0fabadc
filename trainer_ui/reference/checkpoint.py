"""Write the full-size checkpoint, one tensor in memory at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from shira_core.atomic import atomic_write, refuse_existing
from shira_core.errors import InvalidValue, WriteFailed
from shira_core.sound import digest

from .compact import FILES, FULL_SHAPES, Compact
from .skeleton import CONTEXT, IDS

TITLE = "SHiRA reference base, widened to SD1.5's size"
DESCRIPTION = (
    "A compact network with SD1.5's blocks, each channel copied until it has SD1.5's size: it "
    "draws icons on white at 128x128, for tests and demonstrations."
)
SUFFIX = ".safetensors"
Progress = Callable[[int, int], None]


def write_checkpoint(
    base: Compact, out: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> Path:
    """Write the widened base as an SD1.5 checkpoint in float16, atomically, and return the path.

    One base always gives the same bytes. progress: called with bytes done and in all.
    Raises InvalidValue for a name that hosts would not find, FileExists, BaseInvalid, and
    WriteFailed, without room before anything is written.
    """
    if out.suffix != SUFFIX:
        raise InvalidValue(
            f"{out} would not be found by hosts: give it a name that ends in {SUFFIX}"
        )
    refuse_existing(out, overwrite)
    header, total = _header(base)
    check_space(out, len(header) + total)
    done = 0
    with atomic_write(out, overwrite) as temporary, temporary.open("wb") as file:
        file.write(header)
        for tensor in _tensors(base):
            done += file.write(tensor.view(-1).view(torch.uint8).numpy().data)
            if progress:
                progress(done, total)
    return out


def check_space(out: Path, needed: int) -> None:
    """Raise WriteFailed when the disk of `out` has less room than `needed` bytes."""
    if not out.parent.is_dir():
        raise WriteFailed(f"cannot write {out}: make its folder first; nothing changed")
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise WriteFailed(
            f"{out} needs {needed / 1e9:.2f} GB and its disk has {free / 1e9:.2f} GB free: make "
            "room or choose another place; nothing changed"
        )


def _tensors(base: Compact) -> Iterator[Tensor]:
    """Yield all tensors in the order of the file."""
    yield torch.arange(CONTEXT)
    for name in sorted(FULL_SHAPES):
        yield base.widened(name)


def _header(base: Compact) -> tuple[bytes, int]:
    """Return the file's header, and the number of bytes of data after it."""
    content: dict[str, object] = {"__metadata__": _metadata(base)}
    wide = 8 * CONTEXT  # first, so that every tensor is aligned
    content[IDS] = {"dtype": "I64", "shape": [1, CONTEXT], "data_offsets": [0, wide]}
    end = wide
    for name in sorted(FULL_SHAPES):
        shape = FULL_SHAPES[name]
        begin, end = end, end + 2 * torch.Size(shape).numel()
        content[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, end


def _metadata(base: Compact) -> dict[str, str]:
    """Return what the file says about itself, and the hashes of the files it comes from."""
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.implementation": "https://github.com/CompVis/stable-diffusion",
        "modelspec.title": TITLE,
        "modelspec.description": DESCRIPTION,
        "modelspec.license": "Apache-2.0",
        "modelspec.prediction_type": "epsilon",
        "modelspec.resolution": "128x128",
        "shira.reference": json.dumps({file: digest(base.folder / file) for file in FILES}),
    }

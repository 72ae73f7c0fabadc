"""The files of a SHiRA adapter as PEFT writes them: adapter_config.json, adapter_model.safetensors.

A module NAME has `base_model.model.NAME.shira_weight`, float32 (n,), and
`base_model.model.NAME.shira_indices` (2, n), output and input of each; n = r * (outputs + inputs)
with one r for all modules. PEFT on Windows writes the indices as float32.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..atomic import explained, replace_all
from ..container import Container, read_header, strict_json
from ..entries import finite
from ..errors import FileExists, FileInvalid

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_START, _VALUES, _INDICES = "base_model.model.", ".shira_weight", ".shira_indices"
_MAX_CONFIG = 1 << 20


@dataclass(frozen=True)
class Entries:
    """Entries of one module. rows, columns: int64 (n,); values: float32 (n,)."""

    rows: Tensor
    columns: Tensor
    values: Tensor


@dataclass(frozen=True)
class PeftShira:
    """What a folder holds: the config's values, entries by module, and the weights' metadata."""

    config: Mapping[str, Any]
    modules: Mapping[str, Entries]
    metadata: Mapping[str, str]


def read(folder: Path) -> PeftShira:
    """Read and check a folder; raises FileInvalid."""
    try:
        config = _config(folder / CONFIG)
        container = read_header(folder / WEIGHTS)
        tensors = load((folder / WEIGHTS).read_bytes())
    except OSError as error:
        raise FileInvalid(f"{folder} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise FileInvalid(f"{folder / WEIGHTS} is damaged ({error}): get it again") from None
    try:
        return PeftShira(config, _modules(container, tensors), container.metadata)
    except FileInvalid as error:
        raise FileInvalid(f"{folder / WEIGHTS}: {error}") from None


def write(folders: Mapping[Path, PeftShira], *, overwrite: bool = False) -> None:
    """Write folders; raises FileExists, WriteFailed. No file is changed before all are on disk."""
    refuse_existing(folders, overwrite)
    contents: dict[Path, bytes] = {}
    for folder, shira in folders.items():
        text = json.dumps(shira.config, indent=2, sort_keys=True, ensure_ascii=False)
        contents[folder / CONFIG] = text.encode()
        contents[folder / WEIGHTS] = save(_tensors(shira), metadata=dict(shira.metadata))
    made = [folder for folder in folders if not os.path.exists(folder)]
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        replace_all(contents)
    except BaseException as error:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise explained(error, next(iter(folders))) from error
        raise


def refuse_existing(folders: Iterable[Path], overwrite: bool) -> None:
    """Raise FileExists when a folder has an adapter that must stay, or is a file."""
    for folder in folders:
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise FileExists(f"{folder} is a file: name a folder")
        if not overwrite and any(os.path.exists(folder / name) for name in (CONFIG, WEIGHTS)):
            raise FileExists(f"{folder} has an adapter: choose another folder or add --overwrite")


def _config(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_CONFIG:
        raise FileInvalid(f"{path} is too large for a config: get it again")
    try:
        values = strict_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileInvalid(f"{path} is damaged ({error}): get it again") from None
    kind = values.get("peft_type") if isinstance(values, dict) else None
    if kind != "SHIRA":
        raise FileInvalid(f"{path} is of PEFT's method {kind}, not of SHIRA: give a SHiRA adapter")
    if type(values.get("r")) is not int or values["r"] < 1:
        raise FileInvalid(f"{path} names no r of 1 or more: get it again")
    return dict(values)


def _tensors(shira: PeftShira) -> dict[str, Tensor]:
    tensors = {}
    for name, own in shira.modules.items():
        tensors[f"{_START}{name}{_VALUES}"] = own.values.contiguous()
        tensors[f"{_START}{name}{_INDICES}"] = torch.stack([own.rows, own.columns]).int()
    return tensors


def _modules(container: Container, tensors: dict[str, Tensor]) -> dict[str, Entries]:
    names = [n[len(_START) : -len(_VALUES)] for n in container.tensors if n.endswith(_VALUES)]
    found = {name: _entries(name, tensors) for name in names}
    if tensors:
        raise FileInvalid(
            f"it has {next(iter(tensors))!r:.120}, which is no SHiRA of a module: what was trained "
            "whole (modules_to_save) cannot be converted"
        )
    if not found:
        raise FileInvalid("it changes no module: get it again")
    return found


def _entries(name: str, tensors: dict[str, Tensor]) -> Entries:
    values = tensors.pop(f"{_START}{name}{_VALUES}", None)
    indices = tensors.pop(f"{_START}{name}{_INDICES}", None)
    if values is None or indices is None:
        raise FileInvalid(f"{name} has no indices: it was saved by a PEFT that kept none")
    if values.ndim != 1 or indices.shape != (2, len(values)):
        raise FileInvalid(f"{name} has values that do not match its indices: get it again")
    if not values.is_floating_point() or not finite(values):
        raise FileInvalid(f"{name} has values that are no finite numbers: get it again")
    whole = indices.to(torch.int64)
    if not torch.equal(whole.to(indices.dtype), indices) or bool((whole < 0).any()):
        raise FileInvalid(f"{name} has indices that are no whole numbers: get it again")
    return Entries(whole[0], whole[1], values.float())

"""Records of tensors by key: in memory, or in a folder for later runs.

A key is a hash of everything that a record follows from, so a record is never stale: what has
changed has another key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from shira_core.atomic import atomic_write
from shira_core.errors import FileInvalid, WriteFailed

VERSION = 1  # of what records hold
NAME = "shira.key"
Record = Mapping[str, Tensor]
# Of a module's config: who wrote it and where it lay, which its output does not depend on.
UNRELATED = frozenset(("transformers_version", "torch_dtype", "dtype", "architectures"))


def key(*parts: object) -> str:
    """Return a key that another value of any part would change."""
    return hashlib.sha256(json.dumps([VERSION, *map(str, parts)]).encode()).hexdigest()


def fingerprint(*modules: Any) -> str:
    """Return a SHA-256 over the weights and configs of modules of diffusers or transformers."""
    total = hashlib.sha256()
    for module in modules:
        total.update(json.dumps(_facts(module), sort_keys=True, default=str).encode())
        for name, tensor in module.state_dict().items():
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            total.update(memoryview(raw.numpy()))
    return total.hexdigest()


def _facts(module: nn.Module) -> dict[str, Any]:
    config: Any = module.config
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {k: v for k, v in values.items() if not k.startswith("_") and k not in UNRELATED}


class Memory:
    """Records that end with the run."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> Record:
        return self._records[key]

    def put(self, key: str, record: Record) -> None:
        self._records[key] = record


class Folder:
    """Records in safetensors files of a folder, read when they are used.

    Each is written whole or not at all, so runs may share the folder. A file that is damaged, or
    not the one of its key, is as if it were not there.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder where it is missing; raises WriteFailed."""
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteFailed(
                f"cache: cannot make {folder} ({error.strerror}): choose another place"
            ) from None

    def __contains__(self, key: str) -> bool:
        try:
            with safe_open(self._path(key), framework="pt") as file:
                return (file.metadata() or {}).get(NAME) == key
        except (SafetensorError, OSError):
            return False

    def __getitem__(self, key: str) -> Record:
        """Return a record; raises FileInvalid when it was removed or damaged since it was put."""
        try:
            with safe_open(self._path(key), framework="pt") as file:
                return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise FileInvalid(
                f"cache {self._path(key)} cannot be read ({error}): go on with --resume, which "
                "makes it anew"
            ) from None

    def put(self, key: str, record: Record) -> None:
        raw = to_bytes({name: each.contiguous() for name, each in record.items()}, {NAME: key})
        with atomic_write(self._path(key), overwrite=True) as target:
            target.write_bytes(raw)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"


Store = Memory | Folder


def open_store(folder: Path | None) -> Store:
    """Return a store in a folder, or in memory for None."""
    return Folder(folder) if folder else Memory()

"""Sparse High Rank Adapters: files, masks, application, fusion, comparison and training.

Names are imported when they are first used, so that reading a header needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import masks as masks
    from . import training as training
    from .adapter import Adapter as Adapter
    from .adapter import MemoryWeights as MemoryWeights
    from .alpha import Alpha as Alpha
    from .baking import bake as bake
    from .errors import ShiraError as ShiraError
    from .file import load as load
    from .header import Header as Header
    from .interference import compare as compare
    from .mask import Mask as Mask
    from .mask import SparseDelta as SparseDelta
    from .mixing import mix as mix
    from .stack import Stack as Stack
    from .stack import apply as apply

_HOMES = {
    "adapter": ("Adapter", "MemoryWeights"),
    "alpha": ("Alpha",),
    "baking": ("bake",),
    "errors": ("ShiraError",),
    "file": ("load",),
    "header": ("Header",),
    "interference": ("compare",),
    "mask": ("Mask", "SparseDelta"),
    "mixing": ("mix",),
    "stack": ("Stack", "apply"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = ("masks", "training")

__all__ = [*_HOME_OF, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in _HOME_OF:
        return getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

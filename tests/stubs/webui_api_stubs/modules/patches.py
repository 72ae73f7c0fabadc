"""Replaces functions of modules, each once for each caller."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

originals: dict[str, dict[Any, Any]] = defaultdict(dict)


def patch(key: str, obj: Any, field: str, replacement: Any) -> Any:
    if (obj, field) in originals[key]:
        raise RuntimeError(f"{field} is patched already")
    originals[key][(obj, field)] = getattr(obj, field)
    setattr(obj, field, replacement)
    return originals[key][(obj, field)]


def original(key: str, obj: Any, field: str) -> Any:
    return originals[key].get((obj, field))

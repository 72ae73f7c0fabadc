"""Functions of the WebUI that we wrap, with the means that it has for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modules import patches

Function = Callable[..., Any]


def wrap(owner: Any, name: str, wrapper: Callable[[Function], Function]) -> None:
    """Wrap a function of a module or class, once: the WebUI may load its scripts again."""
    if patches.original(__name__, owner, name) is None:
        patches.patch(__name__, owner, name, wrapper(getattr(owner, name)))

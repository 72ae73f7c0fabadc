"""The WebUI that the extension runs in: one class for each, with the same three methods."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any, Protocol

from ..stack import Stack


class Host(Protocol):
    """What the extension needs of a WebUI beyond what all of them have in common."""

    def install(self) -> None:
        """Ask the WebUI to tell of what happens to its models; after each load of scripts."""
        ...

    def wear(self, p: Any, stack: Stack) -> None:
        """Have the current model wear this stack and nothing else of ours, all of it or nothing.

        p: the WebUI's processing object. It has activated all other networks.
        Raises ShiraError; then the model wears nothing.
        """
        ...

    def take_off(self) -> None:
        """Have every model wear nothing of ours."""
        ...


def _exists(module: str) -> bool:
    return find_spec(module) is not None


def _current() -> Host:
    """Return the host that runs us: the forks bring packages of their own."""
    kind = "a1111"
    if _exists("modules_forge"):
        kind = "reforge" if _exists("ldm_patched") else "forge"
    found: Host = importlib.import_module(f".{kind}", __name__).HOST
    return found


HOST = _current()

"""The server as node packs see it: a table of routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Routes:
    def __init__(self) -> None:
        self.by_path: dict[str, Callable[..., Any]] = {}

    def get(self, path: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def keep(answer: Callable[..., Any]) -> Callable[..., Any]:
            self.by_path[path] = answer
            return answer

        return keep


class PromptServer:
    instance: Any = None

    def __init__(self) -> None:
        self.routes = Routes()

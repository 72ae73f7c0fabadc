"""A sampling run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Sampler:
    def launch_sampling(self, steps: int, func: Callable[[], Any]) -> Any:
        return func()

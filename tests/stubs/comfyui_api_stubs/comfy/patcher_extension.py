"""Wrappers around what a host does, called one inside of the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class WrappersMP:
    OUTER_SAMPLE = "outer_sample"
    PREPARE_SAMPLING = "prepare_sampling"
    PREDICT_NOISE = "predict_noise"


class WrapperExecutor:
    """Calls the wrappers in order, the original at last."""

    def __init__(
        self, original: Callable[..., Any], class_obj: object, wrappers: list[Any], idx: int
    ) -> None:
        self.original, self.class_obj, self.wrappers, self.idx = original, class_obj, wrappers, idx

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        following = (self.original, self.class_obj, self.wrappers, self.idx + 1)
        return WrapperExecutor(*following).execute(*args, **kwargs)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        if self.idx == len(self.wrappers):
            return self.original(*args, **kwargs)
        return self.wrappers[self.idx](self, *args, **kwargs)

"""Attributes by dotted names, progress."""

from __future__ import annotations

from typing import Any

import torch


def get_attr(obj: Any, attr: str) -> Any:
    for part in attr.split("."):
        obj = getattr(obj, part)
    return obj


def set_attr_param(obj: Any, attr: str, value: torch.Tensor) -> None:
    owner, _, name = attr.rpartition(".")
    module = get_attr(obj, owner) if owner else obj
    setattr(module, name, torch.nn.Parameter(value, requires_grad=False))


class ProgressBar:
    def __init__(self, total: int, node_id: Any = None) -> None:
        self.total, self.current = total, 0

    def update(self, value: int) -> None:
        self.current += value

    def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
        self.current = value

"""Forge: text encoders have a patcher of their own."""

from __future__ import annotations

from typing import Any

from backend.patcher.base import ModelPatcher


class CLIP:
    def __init__(self, model: Any = None) -> None:
        if model is not None:
            self.cond_stage_model, self.patcher = model, ModelPatcher(model)

    def clone(self) -> CLIP:
        made = CLIP()
        made.cond_stage_model, made.patcher = self.cond_stage_model, self.patcher.clone()
        return made

    def add_patches(self, *arg: Any, **kwargs: Any) -> Any:
        return self.patcher.add_patches(*arg, **kwargs)

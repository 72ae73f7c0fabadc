"""Hooks: changes of weights that conditionings carry."""

from __future__ import annotations

from enum import Enum
from typing import Any


class EnumWeightTarget(Enum):
    Model = "model"
    Clip = "clip"


class _HookRef:
    pass


class WeightHook:
    def __init__(self, strength_model: float = 1.0, strength_clip: float = 1.0) -> None:
        self.hook_ref = _HookRef()
        self.weights: Any = None
        self.weights_clip: Any = None
        self.need_weight_init = True
        self._strength_model, self._strength_clip = strength_model, strength_clip

    def should_register(
        self, model: Any, model_options: Any, target_dict: Any, registered: Any
    ) -> bool:
        return True

    def add_hook_patches(
        self, model: Any, model_options: Any, target_dict: Any, registered: Any
    ) -> bool:
        raise NotImplementedError

    def clone(self) -> Any:
        made = self.__class__()
        made.hook_ref, made.need_weight_init = self.hook_ref, self.need_weight_init
        return made


class HookGroup:
    def __init__(self) -> None:
        self.hooks: list[Any] = []

    def add(self, hook: Any) -> None:
        self.hooks.append(hook)

    def clone(self) -> HookGroup:
        made = HookGroup()
        for hook in self.hooks:
            made.add(hook.clone())
        return made

    def clone_and_combine(self, other: HookGroup | None) -> HookGroup:
        made = self.clone()
        for hook in other.hooks if other else []:
            made.add(hook.clone())
        return made

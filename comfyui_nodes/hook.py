"""A stack as a hook: conditionings that carry it are sampled with it, others without."""

from __future__ import annotations

from typing import Any

import comfy.hooks

from shira_core import rows

from . import apply
from .patch import ShiraPatch, shares


class ShiraHook(comfy.hooks.WeightHook):
    """A weight hook whose patches are found when the host registers it with a model.

    So it needs no model when it is made, and works for each that it meets. The host makes and
    clones hooks without arguments.
    """

    def __init__(self, stack: rows.Stack = ()) -> None:
        super().__init__(strength_model=1.0, strength_clip=1.0)
        self.stack = stack
        self.need_weight_init = False

    def add_hook_patches(
        self,
        model: Any,
        model_options: dict[str, Any],
        target_dict: dict[str, Any],
        registered: Any,
    ) -> bool:
        if not self.should_register(model, model_options, target_dict, registered):
            return False
        of_clip = target_dict.get("target") == comfy.hooks.EnumWeightTarget.Clip
        names = (apply.clip_names if of_clip else apply.model_names)(model.model, self.stack)
        wanted = shares(names)
        patches = {key: ShiraPatch(set(wanted), (share,)) for key, share in wanted.items()}
        model.add_hook_patches(hook=self, patches=patches, strength_patch=1.0)
        registered.add(self)
        return True

    def clone(self) -> ShiraHook:
        copy: ShiraHook = super().clone()
        copy.stack = self.stack
        return copy

"""SHiRA Schedule and SHiRA Hook: stacks for a part of a run, or for some conditionings."""

from __future__ import annotations

from typing import Any, ClassVar

import comfy.hooks

from shira_core import rows

from .. import apply, hook
from ..folder import LIBRARY
from . import inputs
from .loading import row


class Schedule:
    """Has a stack on from one point of each sampling run to another."""

    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "Switches a stack on and off inside of a sampling run, at almost no cost."
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("MODEL",)
    FUNCTION = "schedule"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        return {
            "required": {
                "model": ("MODEL",),
                "stack": (inputs.STACK,),
                "start_percent": inputs.share(0.0, "On from here: 0 is the first step."),
                "end_percent": inputs.share(0.5, "Off from here: 1 is the end."),
            },
            "optional": {"strength": inputs.alpha("Factor of all alphas.")},
        }

    @classmethod
    def VALIDATE_INPUTS(  # noqa: N802
        cls, start_percent: float = 0.0, end_percent: float = 1.0
    ) -> bool | str:
        if 0.0 <= start_percent < end_percent <= 1.0:
            return True
        return (
            f"the stack is on from {start_percent} to {end_percent}: choose 0 <= start < end <= 1"
        )

    def schedule(
        self,
        model: Any,
        stack: rows.Stack,
        start_percent: float,
        end_percent: float,
        strength: float = 1.0,
    ) -> tuple[Any]:
        scaled = rows.same_alpha(stack, strength)
        return (apply.scheduled(model, scaled, start_percent, end_percent),)


class Hook:
    """Makes a hook of an adapter, for ComfyUI's own hook nodes."""

    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "Makes a hook: conditionings that carry it are sampled with the adapter."
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("HOOKS",)
    FUNCTION = "hook"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "adapter": inputs.adapter(),
                "alpha": inputs.alpha("How strongly the model changes: 1 is as trained."),
                "alpha_te": inputs.alpha("The same for the text encoder."),
            },
            "optional": {"blocks": inputs.blocks(), "prev_hooks": ("HOOKS",)},
        }

    @classmethod
    def VALIDATE_INPUTS(  # noqa: N802
        cls, adapter: str = "", alpha: float = 1.0, alpha_te: float = 1.0, blocks: str = ""
    ) -> bool | str:
        return not adapter or inputs.checked(row(adapter, alpha, alpha_te, blocks))

    @classmethod
    def IS_CHANGED(cls, adapter: str, **_: Any) -> str:  # noqa: N802
        return LIBRARY.fingerprint(adapter)

    def hook(
        self,
        adapter: str,
        alpha: float,
        alpha_te: float,
        blocks: str = "",
        prev_hooks: Any = None,
    ) -> tuple[Any]:
        group = comfy.hooks.HookGroup()
        group.add(hook.ShiraHook((row(adapter, alpha, alpha_te, blocks).entry(LIBRARY),)))
        return (prev_hooks.clone_and_combine(group) if prev_hooks is not None else group,)

"""Load SHiRA and SHiRA Alpha Sweep: one file on a model."""

from __future__ import annotations

from typing import Any, ClassVar

from shira_core import rows

from .. import apply
from ..folder import LIBRARY
from . import inputs


class LoadShira:
    """Adds one adapter to a model and its text encoder."""

    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "Adds a sparse adapter (SHiRA) to a model and, if connected, its text encoder."
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("MODEL", "CLIP", "STRING")
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("MODEL", "CLIP", "trigger words")
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model to adapt, of any architecture."}),
                "adapter": inputs.adapter(),
                "alpha": inputs.alpha("How strongly the model changes: 1 is as trained."),
                "alpha_te": inputs.alpha("The same for the text encoder."),
            },
            "optional": {
                "clip": ("CLIP", {"tooltip": "Leave it open and only the model is adapted."}),
                "blocks": inputs.blocks(),
                "stack": (inputs.STACK, {"tooltip": "Adapters that are added before this one."}),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(  # noqa: N802
        cls, adapter: str = "", alpha: float = 1.0, alpha_te: float = 1.0, blocks: str = ""
    ) -> bool | str:
        if not adapter:  # it comes from another node
            return True
        return inputs.checked(row(adapter, alpha, alpha_te, blocks))

    @classmethod
    def IS_CHANGED(cls, adapter: str, **_: Any) -> str:  # noqa: N802
        return LIBRARY.fingerprint(adapter)

    def load(
        self,
        model: Any,
        adapter: str,
        alpha: float,
        alpha_te: float,
        clip: Any = None,
        blocks: str = "",
        stack: rows.Stack = (),
    ) -> dict[str, Any]:
        wanted = (*stack, row(adapter, alpha, alpha_te, blocks).entry(LIBRARY))
        adapted = apply.to_model(model, wanted)
        encoder = apply.to_clip(clip, wanted) if clip is not None else None
        text = f"applied {apply.way(adapted, wanted, clip)}"
        return {"ui": {"text": [text]}, "result": (adapted, encoder, rows.triggers(wanted))}


class AlphaSweep:
    """Makes a list of models, one for each alpha: what follows runs once for each."""

    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "Gives a list of models with one alpha each: the rest of the graph runs for each."
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("MODEL", "CLIP", "FLOAT")
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("MODEL", "CLIP", "alpha")
    OUTPUT_IS_LIST: ClassVar[tuple[bool, ...]] = (True, True, True)
    FUNCTION = "sweep"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        alphas = {"default": "0, 0.5, 1", "tooltip": "Numbers, separated by commas."}
        return {
            "required": {
                "model": ("MODEL",),
                "adapter": inputs.adapter(),
                "alphas": ("STRING", alphas),
            },
            "optional": {"clip": ("CLIP",), "blocks": inputs.blocks()},
        }

    @classmethod
    def VALIDATE_INPUTS(  # noqa: N802
        cls, adapter: str = "", alphas: str = "1", blocks: str = ""
    ) -> bool | str:
        numbers = parts(alphas)
        if numbers is None:
            return f"{alphas!r:.80} is no list of numbers: write 0, 0.5, 1"
        if not adapter:  # it comes from another node
            return True
        problems = [inputs.checked(row(adapter, each, each, blocks)) for each in numbers]
        return next((each for each in problems if each is not True), True)

    @classmethod
    def IS_CHANGED(cls, adapter: str, **_: Any) -> str:  # noqa: N802
        return LIBRARY.fingerprint(adapter)

    def sweep(
        self, model: Any, adapter: str, alphas: str, clip: Any = None, blocks: str = ""
    ) -> tuple[list[Any], list[Any], list[float]]:
        numbers = parts(alphas) or []
        stacks = [(row(adapter, each, each, blocks).entry(LIBRARY),) for each in numbers]
        encoders = [apply.to_clip(clip, each) if clip is not None else None for each in stacks]
        return [apply.to_model(model, each) for each in stacks], encoders, numbers


def row(adapter: str, alpha: float, alpha_te: float, blocks: str) -> rows.Row:
    return rows.Row(adapter, alpha=alpha, alpha_te=alpha_te, blocks=blocks)


def parts(text: str) -> list[float] | None:
    """Return the numbers of a text, at least one; None if it holds anything else."""
    try:
        return [float(part) for part in text.replace(";", ",").split(",")]
    except ValueError:
        return None

"""Fuse SHiRA Stack: any number of files, one node."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar

import comfy.model_management
import comfy.utils

from shira_core import pairs, rows
from shira_core.adapter import Adapter
from shira_core.alpha import Alpha
from shira_core.errors import ShiraError
from shira_core.mixing import Mixer
from shira_core.modes import MODES
from shira_core.plan import Entry

from .. import apply, heatmap
from ..folder import LIBRARY
from . import inputs

QUICK, FULL = "overlap", "overlap, AWOR and AWOM"


class FuseStack:
    """Adds all rows that are on to a model and its text encoder, and reports on them."""

    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "Adds several sparse adapters at once and tells how much they interfere."
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("MODEL", "CLIP", inputs.STACK, "STRING", "IMAGE")
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("MODEL", "CLIP", "stack", "report", "heat map")
    FUNCTION = "fuse"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        about = "; ".join(f"{name}: {mode.about}" for name, mode in MODES.items())
        rows_help = "A JSON list of rows, or lines such as style.shira: 0.8"
        measure_help = "AWOR and AWOM take about a minute for each pair of files, once."
        return {
            "required": {
                "rows": ("STRING", {"default": "[]", "multiline": True, "tooltip": rows_help}),
                "mode": (list(MODES), {"tooltip": about}),
            },
            "optional": {
                "model": ("MODEL",),
                "clip": ("CLIP",),
                "stack": (inputs.STACK, {"tooltip": "Rows of another stack, added to these."}),
                "measure": ([QUICK, FULL], {"tooltip": measure_help}),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, rows: str = "") -> bool | str:  # noqa: N802
        return _problem(rows) or True

    @classmethod
    def IS_CHANGED(cls, rows: str = "", **_: Any) -> str:  # noqa: N802
        return _fingerprint(rows)

    def fuse(
        self,
        rows: str,
        mode: str,
        model: Any = None,
        clip: Any = None,
        stack: rows.Stack = (),
        measure: str = QUICK,
    ) -> dict[str, Any]:
        return _fuse(rows, mode, model, clip, stack, measure)


def _fuse(
    text: str, mode: str, model: Any, clip: Any, before: rows.Stack, measure: str
) -> dict[str, Any]:
    read = rows.read(text)
    wanted = (*before, *rows.entries(read, LIBRARY))
    fused = joined(wanted, mode)
    adapted = apply.to_model(model, fused) if model is not None else None
    encoder = apply.to_clip(clip, fused) if clip is not None else None
    found = (pairs.measured if measure == FULL else pairs.overlaps)(wanted, _progress(wanted))
    report = pairs.text(wanted, found, read.skipped)
    if adapted is not None and wanted:
        report += f"\napplied {apply.way(adapted, wanted, clip)}"
    result = (adapted, encoder, fused, report, heatmap.draw(wanted, found))
    return {"ui": {"text": [report]}, "result": result}


def joined(stack: rows.Stack, mode: str) -> rows.Stack:
    """Return a stack that adds up to what a mode makes of this one."""
    if mode == "sum" or len(stack) < 2:
        return stack
    mixed = _mixer(*(entry.adapter for entry in stack)).mix([e.alpha for e in stack], mode)
    return (Entry(mixed, Alpha()),)


@lru_cache(maxsize=1)
def _mixer(*adapters: Adapter) -> Mixer:
    """Return what mixes these adapters; the last one is kept, for the next move of a slider."""
    return Mixer(adapters)


def _progress(stack: rows.Stack) -> pairs.Step:
    """Return what shows progress in the page and ends the node when the person wants it."""
    bar = comfy.utils.ProgressBar(max(1, pairs.steps(stack)))

    def step() -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update(1)

    return step


def _problem(text: str) -> str | None:
    try:
        return rows.problem(rows.read(text).rows, LIBRARY)
    except ShiraError as error:
        return str(error)


def _fingerprint(text: str) -> str:
    try:
        return " ".join(LIBRARY.fingerprint(row.name) for row in rows.read(text).rows)
    except ShiraError as error:
        return str(error)

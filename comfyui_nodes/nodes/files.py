"""SHiRA Info, Save SHiRA and SHiRA Bake: nodes that read and write files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import comfy.model_management
import comfy.utils
import folder_paths
import torch

import shira_core as shira
from shira_core import facts, rows
from shira_core.atomic import refuse_existing
from shira_core.errors import FileInvalid, ShiraError

from .. import difference
from ..folder import LIBRARY
from . import inputs

CHECKPOINTS = "checkpoints"
PER_MILLE = 1000


class Info:
    """Shows what a file says about itself."""

    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "Shows what an adapter's file says about itself."
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("STRING", "STRING")
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("info", "trigger words")
    FUNCTION = "tell"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        return {"required": {"adapter": inputs.adapter()}}

    @classmethod
    def VALIDATE_INPUTS(cls, adapter: str = "") -> bool | str:  # noqa: N802
        return (adapter and LIBRARY.problem(adapter)) or True

    @classmethod
    def IS_CHANGED(cls, adapter: str) -> str:  # noqa: N802
        return LIBRARY.fingerprint(adapter)

    def tell(self, adapter: str) -> dict[str, Any]:
        text = facts.text(LIBRARY, adapter)
        words = ", ".join(LIBRARY.load(adapter).adapter.header.triggers)
        return {"ui": {"text": [text]}, "result": (text, words)}


class Save:
    """Writes the difference of two models as an adapter into models/shira."""

    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "Saves what makes one model different from another as a sparse adapter."
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("STRING",)
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("name",)
    FUNCTION = "save"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        density = {"default": 0.02, "min": 0.0001, "max": 0.5, "step": 0.0001, "round": 0.0001}
        return {
            "required": {
                "tuned": ("MODEL", {"tooltip": "The model with what is to be saved."}),
                "base": ("MODEL", {"tooltip": "The model without it."}),
                "name": ("STRING", {"default": "my style", "tooltip": "In models/shira."}),
                "density": (
                    "FLOAT",
                    {**density, "tooltip": "Share of all entries to keep."},
                ),
                "trigger": ("STRING", {"default": ""}),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, name: str = "x") -> bool | str:  # noqa: N802
        try:
            LIBRARY.new_path(name)
        except ShiraError as error:
            return str(error)
        return True

    def save(
        self, tuned: Any, base: Any, name: str, density: float, trigger: str
    ) -> dict[str, Any]:
        path = LIBRARY.new_path(name)
        refuse_existing(path, overwrite=False)  # before the long work
        words = tuple(filter(None, map(str.strip, trigger.split(","))))
        adapter, energy = difference.extract(
            tuned,
            base,
            density,
            _interruptible(),
            title=path.stem,
            triggers=words,
            mask="magnitude",
        )
        adapter.save(path, dtype=torch.float16)
        text = (
            f"wrote {path.name}: {adapter.entries:,} entries, "
            f"{energy.share:.0%} of the energy of the change"
        )
        return {"ui": {"text": [text]}, "result": (path.name,)}


class Bake:
    """Writes a checkpoint with a stack in it into the output folder."""

    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "Writes a checkpoint that has a stack in it, for programs that know no SHiRA."
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("STRING",)
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("file",)
    FUNCTION = "bake"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        prefix = {"default": "checkpoints/baked", "tooltip": "In ComfyUI's output folder."}
        return {
            "required": {
                "checkpoint": (folder_paths.get_filename_list(CHECKPOINTS),),
                "stack": (inputs.STACK,),
                "filename_prefix": ("STRING", prefix),
            }
        }

    def bake(self, checkpoint: str, stack: rows.Stack, filename_prefix: str) -> dict[str, Any]:
        source = folder_paths.get_full_path_or_raise(CHECKPOINTS, checkpoint)
        target = numbered(filename_prefix)
        parts = [(entry.adapter, entry.alpha) for entry in stack]
        shira.bake(source, target, parts, progress=_interruptible())
        return {"ui": {"text": [f"wrote {target}"]}, "result": (str(target),)}


def _interruptible() -> Callable[[int, int], None]:
    """Return a progress callback that draws the host's bar and stops when its user asks for it."""
    bar = comfy.utils.ProgressBar(PER_MILLE)

    def progress(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(PER_MILLE * done // max(1, total))

    return progress


def numbered(prefix: str) -> Path:
    """Return the next free name in the output folder, as ComfyUI counts; raises FileInvalid."""
    output = folder_paths.get_output_directory()
    try:
        place, name, number, _, _ = folder_paths.get_save_image_path(prefix, output)
    except Exception as error:  # ComfyUI raises a bare Exception for a place outside of it
        raise FileInvalid(f"{prefix!r:.120} is not inside of the output folder") from error
    return Path(place) / f"{name}_{number:05}_.safetensors"

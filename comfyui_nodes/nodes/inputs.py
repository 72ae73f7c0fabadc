"""Inputs that several nodes have."""

from __future__ import annotations

from typing import Any

from shira_core import rows

from .. import folder

CATEGORY = "SHiRA"
STACK = "SHIRA_STACK"
BLOCKS_HELP = "Factors of single blocks: mid=0, in4=0.5, out11=2. Empty: all alike."


def adapter() -> tuple[Any, ...]:
    """Return the choice of files in models/shira."""
    help_text = "A .shira file, or its .safetensors twin, in models/shira."
    return (folder.names(), {"tooltip": help_text})


def alpha(tooltip: str) -> tuple[Any, ...]:
    """Return a strength; the page shows a slider from -2 to 2."""
    limits = {"min": -rows.LIMIT, "max": rows.LIMIT, "step": 0.05, "round": 0.0001}
    return ("FLOAT", {"default": 1.0, **limits, "tooltip": tooltip})


def blocks() -> tuple[Any, ...]:
    return ("STRING", {"default": "", "tooltip": BLOCKS_HELP})


def share(default: float, tooltip: str) -> tuple[Any, ...]:
    """Return a part of a sampling run, 0..1."""
    return ("FLOAT", {"default": default, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": tooltip})


def checked(row: rows.Row) -> bool | str:
    """Return what ComfyUI wants from VALIDATE_INPUTS: True, or what is wrong."""
    return rows.problem([row], folder.LIBRARY) or True

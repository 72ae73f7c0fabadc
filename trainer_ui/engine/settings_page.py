"""The page of all settings, docs/settings.md, written from the settings' own model.

python -m trainer_ui.engine.settings_page > docs/settings.md
"""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any, Literal

from pydantic.fields import FieldInfo

from . import presets
from .config import SECTIONS, Config

HEAD = """# Settings of the trainer

Every setting is a flag (`--batch-size 2`) and a line in a TOML file (`batch_size = 2`). A preset is
below a file, a file below the flags. Written by `python -m trainer_ui.engine.settings_page`."""
# Of the numbers; a share is between 0 and 1.
UNITS = {
    "resolution": "pixels",
    "bucket_min": "pixels",
    "bucket_max": "pixels",
    "random_crops": "cuts",
    "tag_dropout": "share",
    "keep_tokens": "tags",
    "caption_variants": "captions",
    "caption_dropout": "share",
    "class_weight": "factor",
    "density": "share",
    "rank": "rank",
    "shard": "number",
    "calibration": "batches",
    "steps": "steps",
    "lr": "per step",
    "text_lr": "per step",
    "restarts": "times",
    "warmup": "steps",
    "batch_size": "pictures",
    "accumulate": "passes",
    "min_snr_gamma": "SNR",
    "noise_offset": "factor",
    "weight_decay": "per step, times lr",
    "clip_norm": "norm",
    "ema": "decay per step",
    "validation": "share",
    "seed": "number",
    "threads": "threads",
    "checkpoint_every": "steps",
    "save_every": "steps",
    "validation_every": "steps",
    "sample_every": "steps",
    "sample_count": "pictures",
    "sample_alphas": "alphas",
    "sample_seed": "number",
    "sample_steps": "steps",
    "sample_guidance": "factor",
    "alpha": "factor",
}


def markdown() -> str:
    """Return the page."""
    parts = [HEAD, _presets()]
    for section in SECTIONS:
        title = str(section.__doc__).strip().splitlines()[0].rstrip(".")
        rows = [_row(name, field) for name, field in section.model_fields.items()]
        head = ["| setting | values | unit | default | effect |", "|---|---|---|---|---|"]
        parts.append("\n".join([f"## {title}", "", *head, *rows]))
    return "\n\n".join(parts) + "\n"


def numeric() -> list[str]:
    """Return the settings that are numbers, which have a unit."""
    fields = Config.model_fields.items()
    return [name for name, field in fields if {int, float} & set(_kinds(field.annotation))]


def _presets() -> str:
    lines = []
    for name in presets.names():
        values = ", ".join(f"{key} {_shown(value)}" for key, value in presets.read(name).items())
        lines.append(f"- `{name}`: {presets.purpose(name)}  \n  {values}")
    return "\n".join(["## Presets", "", "`--preset NAME` sets", "", *lines])


def _row(name: str, field: FieldInfo) -> str:
    effect = str(field.description).replace("|", "\\|")
    cells = [f"`{name}`", _values(field), UNITS.get(name, ""), _default(field), effect]
    return f"| {' | '.join(cells)} |"


def _values(field: FieldInfo) -> str:
    kind = next(k for k in _kinds(field.annotation) if k is not type(None))
    if typing.get_origin(kind) is Literal:
        return " ".join(f"`{value}`" for value in typing.get_args(kind))
    words = {int: "whole number", float: "number", bool: "true, false", str: "text", Path: "path"}
    return words.get(kind, "list") + _bounds(field)


def _bounds(field: FieldInfo) -> str:
    bounds = {
        key: value
        for limit in field.metadata
        for key in ("gt", "ge", "lt", "le")
        if (value := getattr(limit, key, None)) is not None
    }
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    texts = [f"{signs[key]} {value:g}" for key, value in bounds.items() if value < 2**32]
    return f" {', '.join(texts)}" if texts else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return "" if field.default in (None, "", ()) else _shown(field.default)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a setting: of a union each, of a list those of its elements, too."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return parts
    if origin is tuple:
        return (annotation, *parts)
    return (annotation,)


if __name__ == "__main__":
    print(markdown(), end="")

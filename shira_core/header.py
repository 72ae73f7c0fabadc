"""What an adapter says about itself. Standard library only, so that reading it is instant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .errors import FileInvalid

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Header:
    """What a person or a host wants to know before it reads a single weight.

    architecture: "sd15", "sdxl", "sd15-compact", ... or "unknown" (see `names.detect`).
    base: name of the base model; base_sha256: hash of its file, lower-case hex, or "".
    prediction_type: "epsilon", "v_prediction" or "".
    mask, density, seed: how the entries were chosen.
    triggers: words that a prompt needs to call the style.
    training: summary of the training run (steps, learning rate, pictures...), JSON values.
    extra: other metadata of the file, kept as it is ("modelspec.*", "ss_*", previews...).
    """

    architecture: str = "unknown"
    base: str = ""
    base_sha256: str = ""
    prediction_type: str = ""
    mask: str = ""
    density: float | None = None
    seed: int | None = None
    triggers: tuple[str, ...] = ()
    title: str = ""
    author: str = ""
    description: str = ""
    license: str = ""
    tags: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)
    version: int = FORMAT_VERSION


_STORED = [f for f in fields(Header) if f.name not in ("extra", "version")]
_ARCHITECTURES = {
    "sd15": ("stable-diffusion-v1/shira", "sd_v1"),
    "sd2": ("stable-diffusion-v2/shira", "sd_v2"),
    "sdxl": ("stable-diffusion-xl-v1-base/shira", "sdxl_base_v1-0"),
}


def to_json(header: Header) -> dict[str, Any]:
    """Return the fields that are stored, without empty ones."""
    values = {f.name: getattr(header, f.name) for f in _STORED}
    return {k: v for k, v in values.items() if v is not None and v != "" and v != () and v != {}}


def from_json(values: Any, extra: Mapping[str, str]) -> Header:
    """Return the header of a file; raises FileInvalid where a field has a wrong type.

    Unknown fields are ignored, so that later versions may add some.
    """
    if not isinstance(values, dict):
        raise FileInvalid("its header is not a JSON object")
    known = {f.name: _checked(f.name, values[f.name]) for f in _STORED if f.name in values}
    return Header(**known, extra=extra)


def _checked(name: str, value: Any) -> Any:
    if name in ("triggers", "tags"):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif name == "training":
        if isinstance(value, dict):
            return value
    elif name in ("density", "seed"):
        number = int if name == "seed" else (int, float)
        if isinstance(value, number) and not isinstance(value, bool):
            return value
    elif isinstance(value, str):
        return value
    raise FileInvalid(f"its header field {name!r} has a value of a wrong type")


def for_other_tools(header: Header) -> dict[str, str]:
    """Return the metadata keys that other programs read (modelspec 1.0.1, sd-scripts)."""
    spec, base_version = _ARCHITECTURES.get(header.architecture, ("", ""))
    keys = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": spec or f"{header.architecture}/shira",
        "modelspec.implementation": "shira",
        "modelspec.title": header.title,
        "modelspec.author": header.author,
        "modelspec.description": header.description,
        "modelspec.license": header.license,
        "modelspec.tags": ", ".join(header.tags),
        "modelspec.trigger_phrase": ", ".join(header.triggers),
        "modelspec.prediction_type": header.prediction_type.removesuffix("_prediction"),
        "ss_base_model_version": base_version,
        "ss_sd_model_name": header.base,
    }
    return {key: value for key, value in keys.items() if value}

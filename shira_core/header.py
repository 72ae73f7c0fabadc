"""What an adapter says about itself. Standard library only, so that reading it is instant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
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
    extra: other metadata of the file, kept as it is ("modelspec.thumbnail", "ss_tag_frequency"...).
    version: of the format that the file has.
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


def from_json(values: Mapping[str, Any], metadata: Mapping[str, str]) -> Header:
    """Return the header of a file; raises FileInvalid where a field has a wrong type.

    metadata: the file's other keys; what `for_other_tools` gives again is no extra. Unknown fields
    are ignored, so that later versions may add some.
    """
    known = {f.name: _checked(f.name, values[f.name]) for f in _STORED if f.name in values}
    header = Header(**known, version=values["version"])
    given = for_other_tools(header)
    extra = {key: value for key, value in metadata.items() if given.get(key) != value}
    return replace(header, extra=extra)


def _checked(name: str, value: Any) -> Any:
    """Return a JSON value as the field holds it."""
    if not _ALLOWED.get(name, _is_text)(value):
        raise FileInvalid(f"its header field {name!r} has a value that cannot be: get it again")
    return tuple(value) if isinstance(value, list) else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _is_seed(value: Any) -> bool:
    return type(value) is int and -(1 << 63) <= value < 1 << 64


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


_ALLOWED: Mapping[str, Callable[[Any], bool]] = {
    "triggers": _are_words,
    "tags": _are_words,
    "density": _is_share,
    "seed": _is_seed,
    "training": _is_object,
}


def summary(value: Any) -> str:
    """Return a value of `training` for a person; of a mixed adapter, what it was mixed from."""
    if isinstance(value, list):
        return " + ".join(map(summary, value))
    if isinstance(value, dict):
        made = value.get("training")
        mixed = made.get("mixed") if isinstance(made, dict) else None
        text = " ".join(str(part) for part in value.values() if not isinstance(part, dict))
        return f"{text} ({summary(mixed)})" if mixed else text
    return str(value)


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
        "ss_v2": "True" if header.architecture == "sd2" else "",
        "ss_sd_model_name": header.base,
    }
    return {key: value for key, value in keys.items() if value}

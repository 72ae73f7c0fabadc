"""What hosts show of a file in a library, from its header alone."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Iterable
from typing import Any

from .errors import ShiraError
from .header import to_json
from .library import Library
from .names import component, label

Facts = dict[str, Any]
THUMBNAIL = "modelspec.thumbnail"
PICTURES = (".preview.png", ".png", ".jpg", ".jpeg", ".webp")
_KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


def short(library: Library, name: str) -> Facts:
    """Return what a list shows of an adapter; raises FileInvalid."""
    header = library.load(name).adapter.header
    return {
        "name": name,
        "title": header.title,
        "architecture": label(header.architecture),
        "trigger": ", ".join(header.triggers),
        "preview": preview(library, name) is not None,
    }


def listing(names: Iterable[str], known: Callable[[str], Facts]) -> list[Facts]:
    """Return what `known` gives for every name; a .shira file that it refuses has an `error`.

    Other safetensors files that cannot be opened are no adapters, and left out.
    """
    found: list[Facts] = []
    for name in names:
        try:
            found.append(known(name))
        except ShiraError as error:
            if name.endswith(".shira"):
                found.append({"name": name, "error": str(error)})
    return found


def full(library: Library, name: str) -> Facts:
    """Return all that a header says, and sizes; raises FileInvalid."""
    opened = library.load(name)
    weights = opened.adapter.weights
    places = [component(weight) for weight in weights]
    cells = sum(math.prod(weights.shape(weight)) for weight in weights)
    return {
        **short(library, name),
        **to_json(opened.adapter.header),
        "architecture": label(opened.adapter.header.architecture),
        "layers": {place: places.count(place) for place in dict.fromkeys(places)},
        "entries": opened.adapter.entries,
        "share": opened.adapter.entries / cells,
        "sha256": opened.digest,
    }


def text(library: Library, name: str) -> str:
    """Return the same as lines for a person; raises FileInvalid."""
    facts = full(library, name)
    layers = ", ".join(f"{count} in {place}" for place, count in facts["layers"].items())
    training = facts.get("training", {})
    plain = {k: v for k, v in training.items() if isinstance(v, (str, int, float))}
    lines = {
        "title": facts["title"],
        "architecture": facts["architecture"],
        "base": facts.get("base", ""),
        "trigger words": facts["trigger"],
        "mask": facts.get("mask", ""),
        "entries": f"{facts['entries']:,}, {facts['share']:.2%} of the changed weights",
        "layers": layers,
        "training": ", ".join(f"{key} {value}" for key, value in plain.items()),
        "author": facts.get("author", ""),
        "license": facts.get("license", ""),
        "description": facts.get("description", ""),
        "SHA-256": facts["sha256"],
    }
    return "\n".join(f"{key}: {value}" for key, value in lines.items() if value)


def preview(library: Library, name: str) -> tuple[bytes, str] | None:
    """Return an adapter's picture and its media type: beside the file, or inside of it."""
    path = library.resolve(name)
    for ending in PICTURES:
        beside = path.with_suffix(ending)
        if beside.is_file() and not beside.is_symlink():
            return beside.read_bytes(), _KINDS[beside.suffix]
    return _thumbnail(library.load(name).adapter.header.extra.get(THUMBNAIL, ""))


def _thumbnail(address: str) -> tuple[bytes, str] | None:
    """Decode a data URL of one of the kinds of picture that a page may show."""
    head, _, data = address.partition(",")
    kind = head.removeprefix("data:").removesuffix(";base64")
    if kind not in _KINDS.values():
        return None
    try:
        return base64.b64decode(data, validate=True), kind
    except binascii.Error:
        return None

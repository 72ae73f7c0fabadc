"""The JSON file beside an adapter that WebUIs read and their editors write."""

from __future__ import annotations

import json
from typing import Any

from ...container import strict_json
from ...header import Header

_VERSIONS = {"sd15": "SD1", "sd2": "SD2", "sdxl": "SDXL"}
_TEXTS = ("description", "sd version", "activation text", "negative text", "notes")
_WEIGHT = "preferred weight"


def of(header: Header) -> bytes:
    """Return the notes of an adapter, as WebUIs write them. Weight 1 is the trained strength."""
    noted = {
        "description": header.description,
        "sd version": _VERSIONS.get(header.architecture, "Unknown"),
        "activation text": ", ".join(header.triggers),
        _WEIGHT: 1.0,
        "negative text": "",
        "notes": "",
    }
    return _bytes(noted)


def known(raw: bytes) -> bytes | None:
    """Return notes from elsewhere with the known keys alone; None where they are no notes."""
    try:
        found = strict_json(raw.decode("utf-8"))
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    noted = {key: value for key, value in found.items() if _may_be(key, value)}
    return _bytes(noted) if noted else None


def _may_be(key: str, value: object) -> bool:
    kind = type(value)
    return kind is str if key in _TEXTS else key == _WEIGHT and kind in (int, float)


def _bytes(noted: dict[str, Any]) -> bytes:
    return (json.dumps(noted, indent=4, ensure_ascii=False) + "\n").encode()

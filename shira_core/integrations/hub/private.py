"""What a file's header tells of the computer that it was made on, taken out of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from ...header import Header

UNNAMED = "(local path)"
# An absolute path: "/a/b", "~/a", "C:\a", "\\host\a", "file:///a"; not the path of an address such
# as "https://host/a", nor "a/b". A folder's name may hold spaces, the last name at a text's end.
_FOLDERS = r"""(?:[^\s\\/:*?"'<>|](?:[^\\/:*?"'<>|\r\n]*[^\s\\/:*?"'<>|])?[\\/]+)*"""
_PATH = re.compile(
    r"""(?:file:/+|(?<![\w./\\<])/(?=[^\s/])|(?<![\w./\\])~[\w.-]*[\\/]+|\b[A-Za-z]:[\\/]+(?=\S)"""
    rf"""|(?<![\w\\:])\\\\+(?=\w))(?P<folders>{_FOLDERS})"""
    r"""(?P<last>[^\\/:*?"'<>|\r\n]*\Z|[^\\/:*?"'<>|\s]*)"""
)


def cleaned(header: Header) -> tuple[Header, tuple[str, ...]]:
    """Return the header with the last name of each absolute path in its place, and what changed.

    The changes are lines for a person: "base: /models/a.safetensors".
    """
    found: list[str] = []
    values = {f.name: _clean(getattr(header, f.name), f.name, found) for f in fields(header)}
    return replace(header, **values), tuple(found)


def _clean(value: Any, where: str, found: list[str]) -> Any:
    """Clean text, and text in lists and objects; everything else stays."""
    if isinstance(value, str):
        return _clean_text(value, where, found)
    if isinstance(value, Mapping):
        return {
            _clean_text(key, where, found): _clean(item, f"{where}.{key}", found)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(_clean(item, where, found) for item in value)
    return value


def _clean_text(text: str, where: str, found: list[str]) -> str:
    if text.startswith("data:image/"):  # a picture: base64 has slashes
        return text

    def last(path: re.Match[str]) -> str:
        found.append(f"{where}: {path[0]}")
        return _last_name(path["folders"], path["last"])

    return _PATH.sub(last, text)


def _last_name(folders: str, last: str) -> str:
    """Return the last name of a path, except where it is the name of a person's home."""
    parts = [part for part in re.split(r"[\\/]+", folders) if part] + ([last] if last else [])
    home = len(parts) > 1 and parts[-2].lower() in ("home", "users")
    return UNNAMED if home or not parts else parts[-1]

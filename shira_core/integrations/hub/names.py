"""Names of files and repositories that can be trusted on every system."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from ...errors import FileInvalid, InvalidValue

MAX_BYTES = 200  # of a name; systems allow 255, and temporary names are longer
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9](?:[\w.-]*\w)?", re.ASCII)
_FORBIDDEN = re.compile(r'[<>:"|?*\\]')
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE)


def stem(name: str) -> str:
    """Return a file's name for a hub: letters, digits, "-", "_" and "." alone, never empty."""
    found = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    while len(found.encode()) > MAX_BYTES // 2:
        found = found[:-1]
    return f"adapter-{found}".rstrip("-") if not found or _RESERVED.match(found) else found


def check_repository(name: str) -> None:
    """Raise InvalidValue unless `name` is "owner/name" as hubs allow it."""
    if not _REPOSITORY.fullmatch(name) or "--" in name or ".." in name or len(name) > 96:
        raise InvalidValue(
            f"{name!r:.120} is no name of a repository: write owner/name, with letters, digits, "
            "'-', '_' and '.'"
        )


def local(remote: str) -> str:
    """Return the name that a repository's file gets on this computer; raises FileInvalid.

    Refused are names that lead elsewhere, hide, or mean something else on any system.
    """
    path = PurePosixPath(remote)
    for part in remote.split("/"):
        if (
            part in ("", ".", "..")
            or not part.isprintable()
            or part.endswith((" ", "."))
            or _FORBIDDEN.search(part)
            or _RESERVED.match(part)
        ):
            raise FileInvalid(f"{remote!r:.120} in the repository is no safe name: ask its author")
    if path.name.startswith(".") or len(path.name.encode()) > MAX_BYTES:
        raise FileInvalid(f"{remote!r:.120} in the repository is hidden or too long a name")
    return path.name

"""SHA256SUMS: the hashes of a folder's files, as `sha256sum -c` reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ...errors import FileInvalid
from ...sound import digest

NAME = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def write(folder: Path, files: Iterable[Path]) -> Path:
    """Write the hashes of files, given relative to the folder; return the path."""
    lines = [f"{digest(folder / file)}  {file.as_posix()}\n" for file in files]
    path = folder / NAME
    path.write_bytes("".join(lines).encode())
    return path


def matches(path: Path, sha256: str) -> bool:
    """Tell whether a file is there and has a hash."""
    try:
        return digest(path) == sha256
    except OSError:
        return False


def read(folder: Path) -> dict[str, str]:
    """Return the hashes that a folder lists; raises FileInvalid."""
    path = folder / NAME
    try:
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        raise FileInvalid(f"{path} cannot be read: {error.strerror or error}") from error


def parse(raw: bytes, where: str) -> dict[str, str]:
    """Return hashes by name; raises FileInvalid for what is no such list."""
    try:
        lines = raw.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise FileInvalid(f"{where} is no text") from None
    found = {match[2]: match[1] for line in lines if (match := _LINE.fullmatch(line))}
    if len(found) != len(lines):
        raise FileInvalid(f"{where} is no list of SHA-256 hashes")
    return found

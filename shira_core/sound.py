"""Is a file sound, to its last byte?"""

from __future__ import annotations

import hashlib
from pathlib import Path

from . import format as layout
from .errors import FileInvalid
from .file import load

CHUNK = 1 << 20


def check_bytes(path: Path) -> bool:
    """Read all positions and values of a file and its hash; return whether it has a hash.

    Raises FileInvalid for the first thing that is wrong.
    """
    weights = load(path).weights
    for name in weights:
        weights.read(name)
    container = layout.read(path).container
    wanted = container.metadata.get(layout.HASH)
    if wanted and digest(path, start=container.data_start) != wanted:
        raise FileInvalid(f"{path}: its data does not match its hash: get it again")
    return bool(wanted)


def digest(*paths: Path, start: int = 0) -> str:
    """Return the SHA-256 of the bytes of files, one after the other, lower-case hex.

    start: where reading begins in each.
    """
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            file.seek(start)
            while block := file.read(CHUNK):
                found.update(block)
    return found.hexdigest()

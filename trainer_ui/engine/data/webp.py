"""Headers of WebP files, which Pillow reads whole to open them (WebP container specification)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

SIDE = 0x3FFF  # 14 bits
ALPHA, EXIF = 0x10, 0x08


@dataclass(frozen=True)
class Facts:
    """Stored width and height, whether there may be an alpha, and the EXIF bytes, if any."""

    size: tuple[int, int]
    alpha: bool = False
    exif: bytes = b""


def read(path: Path) -> Facts | None:
    """Return what a WebP file's header says; None for a file that is no such one."""
    with path.open("rb") as file:
        head = file.read(30)
        if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
            return None
        if head[12:16] == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
            width, height = struct.unpack("<HH", head[26:30])
            return Facts((width & SIDE, height & SIDE))
        if head[12:16] == b"VP8L" and head[20] == 0x2F:
            bits = int.from_bytes(head[21:25], "little")
            return Facts(((bits & SIDE) + 1, (bits >> 14 & SIDE) + 1), bool(bits >> 28 & 1))
        if head[12:16] == b"VP8X":
            size = tuple(int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
            exif = _chunk(file, b"EXIF") if head[20] & EXIF else b""
            return Facts((size[0], size[1]), bool(head[20] & ALPHA), exif)
    return None


def _chunk(file: BinaryIO, name: bytes) -> bytes:
    """Return the first chunk of a name, going from one to the next; nothing if there is none."""
    file.seek(12)
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[4:], "little")
        if head[:4] == name:
            return file.read(length)
        file.seek(length + length % 2, 1)
    return b""

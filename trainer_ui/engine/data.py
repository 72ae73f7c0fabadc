"""The training pictures: find them, read their captions, bring them to one size."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import DataInvalid

EXTENSIONS = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp"))
OTHER_EXTENSIONS = frozenset((".gif", ".tif", ".tiff", ".heic", ".avif", ".jxl", ".psd"))


@dataclass(frozen=True)
class Example:
    """One picture and the prompt it is trained with."""

    path: Path
    prompt: str


def find(folder: Path, trigger: str = "") -> list[Example]:
    """Return the pictures of `folder` in the order of their names, with their prompts.

    Raises DataInvalid when there are none (naming a subfolder that has some), or when a caption
    is not UTF-8.
    """
    if not folder.is_dir():
        state = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataInvalid(f"images: {folder} {state}: give the folder that holds the pictures")
    paths = _pictures(folder)
    if not paths:
        raise DataInvalid(_no_pictures(folder))
    return [Example(path, join(trigger, caption(path, trigger))) for path in paths]


def notes(folder: Path, examples: list[Example]) -> list[str]:
    """Return a line for everything in the folder that looks as if it should be trained, but is not.

    Pictures without a caption among captioned ones, captions without a picture, pictures in
    subfolders, and pictures in formats that are not read.
    """
    paths = {example.path for example in examples}
    bare = sorted(path.name for path in paths if not path.with_suffix(".txt").is_file())
    stems = {path.stem for path in paths}
    lonely = [path.name for path in sorted(folder.glob("*.txt")) if path.stem not in stems]
    other = [p.name for p in sorted(folder.iterdir()) if p.suffix.lower() in OTHER_EXTENSIONS]
    below = {path: count for path, count in _counts(folder).items() if count}
    lines = []
    if 0 < len(bare) < len(paths):
        lines.append(f"{len(bare)} of {len(paths)} pictures have no .txt, {bare[0]} for one")
    if lonely:
        lines.append(f"{len(lonely)} .txt files have no picture of their name, {lonely[0]} for one")
    if below:
        where = ", ".join(f"{count} in {path.name}" for path, count in below.items())
        lines.append(f"pictures in subfolders are not trained: {where}")
    if other:
        lines.append(f"{len(other)} pictures are not trained, save them as PNG: {other[0]} for one")
    return lines


def caption(path: Path, trigger: str = "") -> str:
    """Return the text of the `.txt` beside a picture.

    Without a `.txt`: nothing where there is a trigger to call the style, else the file's name.
    """
    beside = path.with_suffix(".txt")
    if not beside.is_file():
        return "" if trigger else re.sub(r"[_\-\s]+", " ", path.stem).strip()
    try:
        return " ".join(beside.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise DataInvalid(
            f"caption {beside} is not UTF-8 (byte {error.start}): save it again as UTF-8"
        ) from None
    except OSError as error:
        raise DataInvalid(f"caption {beside} cannot be read: {error.strerror}") from None


def join(trigger: str, text: str) -> str:
    """Put the trigger before a text, unless the text already holds it."""
    if not trigger or re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", text, re.IGNORECASE):
        return text
    return f"{trigger}, {text}" if text else trigger


def read(path: Path, resolution: int) -> tuple[Tensor, bool]:
    """Return a picture as float32 (3, resolution, resolution) in -1..1, and whether it was smaller.

    Turned as EXIF says, transparency flattened on white, the shorter side resized, the centre cut.
    """
    try:
        with Image.open(path) as file:
            picture = _flatten(ImageOps.exif_transpose(file))
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataInvalid(
            f"picture {path} cannot be opened ({error}): replace or remove it"
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataInvalid(
            f"picture {path} is damaged or cut off ({error}): replace or remove it"
        ) from None
    small = min(picture.size) < resolution
    fitted = ImageOps.fit(picture, (resolution, resolution), Image.Resampling.LANCZOS)
    array = np.asarray(fitted, dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(array).permute(2, 0, 1).contiguous(), small


def digest(examples: list[Example]) -> str:
    """Return a SHA-256 over all pictures and prompts: what a resumed run must find unchanged."""
    total = hashlib.sha256()
    for example in examples:
        total.update(hashlib.sha256(example.path.read_bytes()).digest())
        total.update(hashlib.sha256(example.prompt.encode()).digest())
    return total.hexdigest()


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()
    )


def _counts(folder: Path) -> dict[Path, int]:
    """Return the number of pictures in each folder up to two levels below."""
    below = [path for pattern in ("*/", "*/*/") for path in sorted(folder.glob(pattern))]
    return {path: len(_pictures(path)) for path in below if path.is_dir()}


def _no_pictures(folder: Path) -> str:
    """Say that a folder has no pictures, and which folder below it the person may have meant."""
    counts = _counts(folder)
    best = max(counts, key=lambda path: counts[path], default=None)
    if best is not None and counts[best]:
        return (
            f"images: no pictures directly in {folder}, but {counts[best]} in {best}: "
            f"give --images {best}"
        )
    kinds = " ".join(sorted(EXTENSIONS))
    return f"images: no pictures in {folder}: put some there ({kinds})"


def _flatten(picture: Image.Image) -> Image.Image:
    """Return the picture as RGB, transparent parts on white."""
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    if picture.mode.startswith("I;16"):  # Pillow would clip 16-bit greys instead of scaling them
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture.convert("RGB")

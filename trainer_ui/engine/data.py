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


def _no_pictures(folder: Path) -> str:
    """Say that a folder has no pictures, and which folder below it the person may have meant."""
    below = [path for pattern in ("*/", "*/*/") for path in sorted(folder.glob(pattern))]
    counts = {path: len(_pictures(path)) for path in below if path.is_dir()}
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

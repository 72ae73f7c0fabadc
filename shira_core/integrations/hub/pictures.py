"""Pictures as they are shared: without what their files tell besides the pixels."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FileInvalid, MissingDependency

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
PREVIEW_SIDE = 512
_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}}
_KEPT = ("icc_profile", "transparency")


def copy(source: Path, stem: Path) -> Path:
    """Write a picture's pixels to `stem` with its format's suffix; return that path.

    Place, camera, prompt, workflow and comments stay behind; the rotation is applied. Raises
    FileInvalid for other formats than PNG, JPEG and WebP, and MissingDependency without Pillow.
    """
    return _with_picture(source, str(source), lambda picture: _save(picture, stem))


def preview(source: Path | bytes, where: str, path: Path) -> Path:
    """Write a small PNG, as hosts show it beside a file; raises as `copy`."""

    def shrink(picture: Image.Image) -> Path:
        small = _bare(picture)
        small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        small.convert("RGBA" if "A" in small.getbands() else "RGB").save(path)
        return path

    return _with_picture(io.BytesIO(source) if isinstance(source, bytes) else source, where, shrink)


def _with_picture(
    source: Path | io.BytesIO, where: str, use: Callable[[Image.Image], Path]
) -> Path:
    try:
        from PIL import Image
    except ImportError:
        raise MissingDependency('pictures need Pillow: pip install "shira[share]"') from None
    try:
        with Image.open(source, formats=list(SUFFIXES)) as picture:
            picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FileInvalid(
            f"{where} is no picture that can be read ({error}): give PNG, JPEG or WebP"
        ) from None
    return use(picture)


def _save(picture: Image.Image, stem: Path) -> Path:
    kind = str(picture.format)
    path = stem.with_name(stem.name + SUFFIXES[kind])
    _bare(picture).save(path, format=kind, **_OPTIONS.get(kind, {}))
    return path


def _bare(picture: Image.Image) -> Image.Image:
    """Return the pixels, upright, with nothing but what they need to be shown as they are."""
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(picture)
    upright.info = {key: value for key, value in upright.info.items() if key in _KEPT}
    return upright

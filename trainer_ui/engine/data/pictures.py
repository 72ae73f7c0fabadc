"""Pictures: what their headers say, and their pixels as a bucket wants them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageChops, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import DataInvalid
from . import webp
from .buckets import Size, scale

MAX_PIXELS = 80_000_000  # more takes a gigabyte to decode and resize
LYING = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
Place = tuple[float, float]  # 0..1: where a cut lies between left and right, top and bottom
CENTRE: Place = (0.5, 0.5)


@dataclass(frozen=True)
class Header:
    """A picture's width and height as it is seen, turned as EXIF says; whether it has an alpha."""

    size: Size
    alpha: bool


def header(path: Path) -> Header:
    """Read a picture's header, not its pixels.

    Raises DataInvalid with the reason, without the name, for a picture that cannot be trained.
    """
    with explained():
        (width, height), alpha, orientation = _stored(path)
    if width * height > MAX_PIXELS:
        raise DataInvalid(
            f"too large ({width}x{height}): save it with less than {MAX_PIXELS // 10**6} "
            "million pixels"
        )
    return Header((height, width) if orientation in LYING else (width, height), alpha)


def decode(raw: bytes) -> Image.Image:
    """Return a picture from the bytes of its file, upright; raises DataInvalid as `header`."""
    with explained(), Image.open(io.BytesIO(raw)) as file:
        return ImageOps.exif_transpose(file)


def pixels(picture: Image.Image, bucket: Size, place: Place = CENTRE) -> Tensor:
    """Return a picture as float32 (3, height, width) in -1..1.

    Transparent parts on white, resized until it covers the bucket, cut at `place`.
    """
    fitted = ImageOps.fit(_flatten(picture), bucket, Image.Resampling.LANCZOS, centering=place)
    array = np.asarray(fitted, dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def alpha(picture: Image.Image) -> Image.Image:
    """Return the alpha channel of a picture as a mask, white where it is opaque."""
    return picture.convert("RGBA").getchannel("A")


def grey(picture: Image.Image) -> Image.Image:
    """Return a painted mask as grey; what is transparent in it is black."""
    picture = _eight_bits(picture)
    return ImageChops.multiply(picture.convert("RGBA").convert("L"), alpha(picture))


def mask(shown: Image.Image, size: Size, target: Size, place: Place = CENTRE) -> Tensor:
    """Return the weight of each latent's loss, float32 (1, height, width) in 0..1.

    shown: a mask in grey. size: of the picture that it belongs to; a mask of another size is
    stretched to it, then cut as the picture is. target: width and height in latents.
    """
    if shown.size != size:
        shown = shown.resize(size, Image.Resampling.BOX)
    fitted = ImageOps.fit(shown, target, Image.Resampling.BOX, centering=place)
    return torch.from_numpy(np.asarray(fitted, dtype=np.float32) / 255)[None]


def corner(size: Size, bucket: Size, place: Place = CENTRE) -> tuple[int, int]:
    """Return top and left of a cut in pixels of the resized picture."""
    larger = scale(size, bucket)
    left, top = (
        round(max(0.0, side * larger - part) * where)
        for side, part, where in zip(size, bucket, place, strict=True)
    )
    return top, left


@contextmanager
def explained() -> Iterator[None]:
    """Tell in one line whatever goes wrong with a picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is less
            yield
    except MemoryError:
        raise
    except Image.DecompressionBombError:
        raise DataInvalid("too large: save it smaller") from None
    except UnidentifiedImageError:
        raise DataInvalid("empty, or not a picture") from None
    except Exception as error:
        # Pillow's readers raise many kinds; each means that the file cannot be used.
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataInvalid(f"damaged or cut off ({line})") from None


def _stored(path: Path) -> tuple[Size, bool, int]:
    """Return width and height as they are stored, whether there is an alpha, EXIF's orientation."""
    if path.suffix.lower() == ".webp" and (facts := webp.read(path)):
        exif = Image.Exif()
        exif.load(facts.exif)
        return facts.size, facts.alpha, exif.get(ExifTags.Base.Orientation, 1)
    with Image.open(path) as file:
        # To search a PNG for EXIF behind its pixels, Pillow would decode them.
        late = file.format == "PNG" and "exif" not in file.info
        orientation = 1 if late else file.getexif().get(ExifTags.Base.Orientation, 1)
        return file.size, _has_alpha(file), orientation


def _has_alpha(picture: Image.Image) -> bool:
    return picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info


def _flatten(picture: Image.Image) -> Image.Image:
    """Return the picture as RGB, transparent parts on white."""
    if _has_alpha(picture):
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return _eight_bits(picture).convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Return 16-bit greys scaled to 8 bits, which Pillow would clip; others as they are."""
    if not picture.mode.startswith("I;16"):
        return picture
    return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))

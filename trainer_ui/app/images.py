"""Pictures and adapters for the page, by paths that the roots allow; nothing else is served."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI
from fastapi.responses import FileResponse, PlainTextResponse, Response
from PIL import Image, ImageOps

from shira_core.errors import ShiraError

from .. import library
from ..roots import Roots
from .words import text

KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
OTHERS = (".bmp",)
ADAPTERS = (".shira", ".safetensors")
SETTINGS = ".toml"
SIDE = 360
MOST_PIXELS = 80_000_000
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "private, max-age=3600"}


def address(route: str, path: Path, **more: object) -> str:
    """Return the address of a file, another one when the file has changed."""
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        stamp = 0
    return f"{route}?{urlencode({'path': path, 'v': stamp, **more})}"


def inline(picture: Image.Image, what: str) -> str:
    """Return a picture that has no file as an element. what: says what it shows."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="shira-drawn" alt="{text(what)}" src="data:image/png;base64,{data}">'


def link(path: Path) -> str:
    """Return a link that downloads a file."""
    return f'<a download href="{text(address("download", path))}">Download {text(path.name)}</a>'


def add(app: FastAPI, roots: Roots) -> None:
    """Add the routes `picture`, `preview` and `download`."""

    def answered(read: Any) -> Any:
        def answer(path: str, small: int = 0) -> Response:
            try:
                return read(_there(roots.resolve(path)), small)
            except (ShiraError, OSError, ValueError, Image.DecompressionBombError) as error:
                return PlainTextResponse(str(error), 404, HEADERS)

        return answer

    for name, read in (("picture", _picture), ("preview", _preview), ("download", _download)):
        app.add_api_route(f"/{name}", answered(read), methods=["GET"])


def _there(path: Path) -> Path:
    if not path.is_file():
        raise ValueError("no file")
    return path


def _picture(path: Path, small: int) -> Response:
    if path.suffix.lower() in KINDS and not small:
        return FileResponse(path, media_type=KINDS[path.suffix.lower()], headers=HEADERS)
    if path.suffix.lower() not in (*KINDS, *OTHERS):
        raise ValueError("no picture")
    return Response(thumbnail(path), media_type="image/jpeg", headers=HEADERS)


def _preview(path: Path, small: int) -> Response:
    found = library.preview(path) if path.suffix.lower() in ADAPTERS else None
    if found is None:
        raise ValueError("no preview")
    with Image.open(io.BytesIO(found)) as picture:
        return Response(_jpeg(picture), media_type="image/jpeg", headers=HEADERS)


def _download(path: Path, small: int) -> Response:
    if path.suffix.lower() not in (*ADAPTERS, SETTINGS):
        raise ValueError("neither an adapter nor settings")
    return FileResponse(path, filename=path.name, headers=HEADERS)


def thumbnail(path: Path) -> bytes:
    """Return a picture in small as JPEG."""
    with Image.open(path) as picture:
        if picture.width * picture.height > MOST_PIXELS:
            raise ValueError("too large")
        picture.draft("RGB", (SIDE, SIDE))
        return _jpeg(ImageOps.exif_transpose(picture))


def _jpeg(picture: Image.Image) -> bytes:
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    rgba = picture.convert("RGBA")
    small = Image.new("RGB", rgba.size, "white")
    small.paste(rgba, mask=rgba.getchannel("A"))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()

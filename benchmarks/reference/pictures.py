"""Pictures as tensors: read what `data.py` wrote, vary it, lay results out on a sheet."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
from models import PIXELS
from PIL import Image
from torch import Tensor

STYLES = ("noto", "flat", "glossy", "contrast")
EVALUATION_STYLES = ("twemoji", "openmoji")  # no training reads these
PICTURES_FILE, EVALUATION_FILE = "pictures.npz", "evaluation.npz"
HERE = Path(__file__).resolve().parent


def splits() -> dict[str, list[str]]:
    """Return the lists of objects in `objects.json`."""
    return json.loads((HERE / "objects.json").read_text(encoding="utf-8"))


def load_pictures(data: Path) -> tuple[list[str], Tensor]:
    """Return object names and uint8 pictures (objects, 4 styles, 3, 128, 128)."""
    return unpack(data / PICTURES_FILE, len(STYLES))


def load_evaluation(data: Path) -> tuple[list[str], Tensor]:
    """Return object names and uint8 pictures (objects, 2 styles, 3, 128, 128), for measuring only.

    An object that one of the sets does not draw is not in it.
    """
    return unpack(data / EVALUATION_FILE, len(EVALUATION_STYLES))


def unpack(file: Path, styles: int) -> tuple[list[str], Tensor]:
    """Return object names and uint8 pictures (objects, styles, 3, 128, 128) of a file."""
    packed = np.load(file)
    ends, blob = packed["ends"], packed["blob"].tobytes()
    starts = [0, *ends[:-1]]
    decoded = [
        np.asarray(Image.open(io.BytesIO(blob[a:b])).convert("RGB"))
        for a, b in zip(starts, ends, strict=True)
    ]
    pictures = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)
    return list(packed["names"]), pictures.reshape(-1, styles, 3, PIXELS, PIXELS).contiguous()


def grid(pictures: Tensor, columns: int) -> Image.Image:
    """Lay pictures (n, 3, h, w) in -1..1 out in full rows."""
    rows = [torch.cat(list(row), -1) for row in pictures.split(columns) if len(row) == columns]
    flat = (torch.cat(rows, -2).clamp(-1, 1) + 1) * 127.5
    return Image.fromarray(flat.permute(1, 2, 0).round().byte().cpu().numpy())

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


def recoloured(pictures: Tensor) -> Tensor:
    """Add pictures in other colours and hatched ones, all on white, so that any style can be drawn.

    pictures: uint8 (n, 3, 128, 128); returns the same with about n/2 more.
    """
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    sixth = len(pictures) // 6
    turned = pictures[order[:sixth]][:, [1, 2, 0]]
    mirrored = pictures[order[sixth : 2 * sixth]][:, [2, 1, 0]].flip(-1)
    dark = pictures[order[-sixth:]].float().mean(1, keepdim=True)
    rows = torch.arange(PIXELS).view(1, 1, -1, 1) + torch.arange(PIXELS)
    stripes = ((rows // 2) % 3 == 0).expand(len(dark), 1, PIXELS, PIXELS)
    hatched = torch.where(stripes & (dark < 200) | (dark < 60), 0, 255).to(torch.uint8)
    return torch.cat([pictures, turned, mirrored, hatched.expand(-1, 3, -1, -1)])


def grid(pictures: Tensor, columns: int) -> Image.Image:
    """Lay pictures (n, 3, h, w) in -1..1 out in full rows."""
    rows = [torch.cat(list(row), -1) for row in pictures.split(columns) if len(row) == columns]
    flat = (torch.cat(rows, -2).clamp(-1, 1) + 1) * 127.5
    return Image.fromarray(flat.permute(1, 2, 0).round().byte().cpu().numpy())

"""The interference of every pair of a stack as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from shira_core.pairs import Pair, title
from shira_core.plan import Entry

CELL, MARGIN, NAME = 96, 12, 14  # pixels; characters of a name
LOW, HIGH = np.array([240, 246, 252.0]), np.array([178, 24, 43.0])
DARK = 0.55  # share from which white text reads better


def draw(stack: Sequence[Entry], pairs: Sequence[Pair]) -> Tensor:
    """Return a table of all pairs, float32 (1, height, width, 3) in 0..1, as ComfyUI has pictures.

    The redder, the more entries they have in common. A cell holds the figures.
    """
    size = max(1, len(stack)) + 1
    picture = Image.new("RGB", (size * CELL + MARGIN, size * CELL + MARGIN), "white")
    pen = ImageDraw.Draw(picture)
    for index, entry in enumerate(stack):
        name = title(entry)[:NAME]
        pen.text((_at(index + 1) + 4, CELL - 20), name, fill="black")
        pen.text((4, _at(index + 1) + CELL // 2), name, fill="black")
    for pair in pairs:
        for row, column in ((pair.first, pair.second), (pair.second, pair.first)):
            _cell(pen, row, column, pair)
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255).unsqueeze(0)


def _cell(pen: ImageDraw.ImageDraw, row: int, column: int, pair: Pair) -> None:
    left, top = _at(column + 1), _at(row + 1)
    red, green, blue = (int(part) for part in LOW + (HIGH - LOW) * pair.overlap)
    box = (left, top, left + CELL - 2, top + CELL - 2)
    pen.rectangle(box, fill=(red, green, blue))
    lines = [f"overlap {pair.overlap:.1%}"]
    if pair.report:
        lines += [f"AWOR {pair.report.awor:.1%}", f"AWOM {pair.report.awom:.3g}"]
    ink = "white" if pair.overlap > DARK else "black"
    pen.multiline_text((left + 6, top + CELL // 2 - 8 * len(lines)), "\n".join(lines), fill=ink)


def _at(index: int) -> int:
    return index * CELL + MARGIN // 2

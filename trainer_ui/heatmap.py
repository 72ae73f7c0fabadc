"""The interference of every pair of adapters as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shira_core.pairs import Pair

CELL, TOP, NAME = 110, 28, 15  # pixels of a cell, of the titles; characters of a name
LOW, HIGH = np.array([240, 246, 252.0]), np.array([178, 24, 43.0])
DARK = 0.55  # share from which white text reads better


def draw(names: Sequence[str], pairs: Sequence[Pair]) -> Image.Image:
    """Return a table of all pairs, the redder the more entries they have in common."""
    side = len(names) * CELL
    picture = Image.new("RGB", (CELL + side, TOP + side), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=13)
    for place, name in enumerate(names):
        pen.text(((place + 1) * CELL + 6, 6), name[:NAME], fill="black", font=font)
        pen.text((6, TOP + place * CELL + CELL // 2 - 8), name[:NAME], fill="black", font=font)
    for pair in pairs:
        ink = "white" if pair.overlap > DARK else "black"
        for row, column in ((pair.first, pair.second), (pair.second, pair.first)):
            left, top = (column + 1) * CELL, TOP + row * CELL
            pen.rectangle((left, top, left + CELL - 2, top + CELL - 2), fill=_colour(pair.overlap))
            corner = (left + 8, top + CELL // 2 - 26)
            pen.multiline_text(corner, _figures(pair), fill=ink, font=font)
    return picture


def _colour(share: float) -> tuple[int, int, int]:
    red, green, blue = (int(part) for part in LOW + (HIGH - LOW) * share)
    return red, green, blue


def _figures(pair: Pair) -> str:
    lines = [f"overlap {pair.overlap:.1%}"]
    if pair.report:
        lines += [f"AWOR {pair.report.awor:.1%}", f"AWOM {pair.report.awom:.3g}"]
    return "\n".join(lines)

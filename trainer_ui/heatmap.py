"""The interference of every pair of adapters as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shira_core.pairs import Pair

CELL, NAME = 110, 15  # pixels; characters of a name
LOW, HIGH = np.array([240, 246, 252.0]), np.array([178, 24, 43.0])
DARK = 0.55  # share from which white text reads better


def draw(names: Sequence[str], pairs: Sequence[Pair]) -> Image.Image:
    """Return a table of all pairs, the redder the more they interfere (1 - AWOR)."""
    side = (len(names) + 1) * CELL
    picture = Image.new("RGB", (side, side), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=13)
    for place, name in enumerate(names, 1):
        pen.text((place * CELL + 6, CELL - 22), name[:NAME], fill="black", font=font)
        pen.text((6, place * CELL + CELL // 2 - 8), name[:NAME], fill="black", font=font)
    for pair in pairs:
        share = 1 - pair.report.awor if pair.report else pair.overlap
        ink = "white" if share > DARK else "black"
        for row, column in ((pair.first, pair.second), (pair.second, pair.first)):
            left, top = (column + 1) * CELL, (row + 1) * CELL
            pen.rectangle((left, top, left + CELL - 2, top + CELL - 2), fill=_colour(share))
            corner = (left + 8, top + CELL // 2 - 26)
            pen.multiline_text(corner, _figures(pair), fill=ink, font=font)
    return picture


def _colour(share: float) -> tuple[int, int, int]:
    red, green, blue = (int(part) for part in LOW + (HIGH - LOW) * min(1.0, max(0.0, share)))
    return red, green, blue


def _figures(pair: Pair) -> str:
    lines = [f"overlap {pair.overlap:.1%}"]
    if pair.report:
        lines += [f"AWOR {pair.report.awor:.1%}", f"AWOM {pair.report.awom:.3g}"]
    return "\n".join(lines)

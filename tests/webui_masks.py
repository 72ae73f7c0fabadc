"""Masks on a WebUI's page, painted by mouse, and what inpainting leaves alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from full_size import MOST, VISIBLE

BLURRED = 12  # pixels beyond the mask that its blur reaches
# Where the mask on a canvas is painted, in shares of its sides; null where it is not.
PAINTED = """canvas => {
    const mask = document.querySelector(`${canvas} :is(canvas[key=mask], .forge-drawing-canvas)`);
    const {width, height} = mask;
    const pixels = mask.getContext("2d").getImageData(0, 0, width, height).data;
    let [left, right, top, bottom] = [width, 0, height, 0];
    for (let i = 0; i < width * height; i++) {
        if (!pixels[4 * i + 3]) continue;
        const x = i % width, y = Math.floor(i / width);
        [left, right] = [Math.min(left, x), Math.max(right, x + 1)];
        [top, bottom] = [Math.min(top, y), y + 1];
    }
    return right ? [left / width, right / width, top / height, bottom / height] : null;
}"""


class Box(NamedTuple):
    """A part of a picture, in shares of its sides."""

    left: float
    right: float
    top: float
    bottom: float


def paint(tab: Any, canvas: str) -> Box:
    """Draw a line over the middle of a picture; return where its mask is painted then.

    The first line on a new picture does not stay in AUTOMATIC1111: then once more.
    """
    tab.locator(canvas).scroll_into_view_if_needed()
    for _ in range(3):
        box = tab.locator(canvas).bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        tab.mouse.move(x - 60, y)
        tab.mouse.down()
        tab.mouse.move(x + 60, y + 20, steps=10)
        tab.mouse.up()
        tab.wait_for_timeout(1000)
        if painted := tab.evaluate(PAINTED, canvas):
            return Box(*painted)
    raise AssertionError(f"no line stays on {canvas}")


def check_inpainted(before: np.ndarray, after: np.ndarray, painted: Box) -> None:
    """Fail unless two pictures differ where a mask was painted, and are the same around it.

    Forge and reForge round what they leave alone.
    """
    apart = np.abs(before.astype(int) - after.astype(int)).max(axis=2)
    height, width = apart.shape
    left, right = round(painted.left * width), round(painted.right * width)
    top, bottom = round(painted.top * height), round(painted.bottom * height)
    assert apart[top:bottom, left:right].mean() > VISIBLE
    near = np.s_[max(0, top - BLURRED) : bottom + BLURRED, max(0, left - BLURRED) : right + BLURRED]
    apart[near] = 0
    assert apart[near].size < apart.size / 2
    assert apart.max() <= MOST

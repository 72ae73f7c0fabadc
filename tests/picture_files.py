"""Picture files and settings for the tests of the training data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from trainer_ui.engine.config.data import DataSettings
from trainer_ui.engine.data import Dataset, scan


def picture(
    path: Path, size: tuple[int, int] = (64, 64), color: object = "red", text: str | None = None
) -> Path:
    """Write a picture of one colour, with a caption beside it unless `text` is None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    if text is not None:
        path.with_suffix(".txt").write_text(text, encoding="utf-8")
    return path


def noise(path: Path, size: tuple[int, int] = (64, 64), seed: int = 0) -> Path:
    """Write a picture of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def dataset(folder: Path, resolution: int = 64, step: int = 64, **settings: object) -> Dataset:
    """Return the data set of a folder."""
    values = {"images": folder, "trigger": "ink style", **settings}
    return scan(DataSettings(**values), resolution, step)

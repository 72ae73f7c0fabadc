"""Curves and pictures for TensorBoard, where it is wanted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .errors import ConfigInvalid


class Board:
    """Writes into a folder; None: nowhere. Raises ConfigInvalid when TensorBoard is not there."""

    def __init__(self, folder: Path | None) -> None:
        self._writer: Any = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigInvalid(
                "tensorboard = true needs TensorBoard: pip install tensorboard, or turn it off"
            ) from None
        self._writer = SummaryWriter(log_dir=str(folder))

    def scalars(self, step: int, **values: float | None) -> None:
        """Add a point to some curves; what is no number is left out."""
        for name, value in values.items():
            if self._writer and value is not None and math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        if self._writer:
            self._writer.add_image(name, np.asarray(picture), step, dataformats="HWC")

    def close(self) -> None:
        if self._writer:
            self._writer.close()

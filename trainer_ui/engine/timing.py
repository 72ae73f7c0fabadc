"""`shira train --time`: some steps are trained on noise for their time, and nothing is kept."""

from __future__ import annotations

import io
import time
from contextlib import redirect_stdout, suppress
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from PIL import Image

from .config import Config
from .display import quiet
from .errors import TrainingFailed
from .outline import outline

STEPS, FEWEST = 16, 4  # after the first one
LIMIT = 60.0  # seconds, after which the fewest will do
# Steps on noise need no more, and nothing is drawn, measured or written on the way.
LEFT_OUT = {
    **dict.fromkeys(("class_images", "cache", "bucket_min", "bucket_max", "calibration")),
    **dict.fromkeys(("checkpoint_every", "save_every", "sample_count", "validation"), 0),
    **{"class_prompt": "", "sample_prompts": (), "tensorboard": False, "resume": False},
}
MEASURED = ("grad", "snip", "moved")  # masks that look at the pictures first


class _Enough(Exception):
    """Ends the run, which has no end of its own that keeps nothing."""


def seconds_per_step(config: Config) -> float:
    """Return how long a step takes on this machine once it is in its stride.

    Takes as long as loading the base and a minute at most, or five steps where they take longer.
    Raises what training raises, and TrainingFailed when it was stopped.
    """
    from .loop import train

    quiet()
    ends = list[float]()

    def watch(step: int, unet: object) -> None:
        ends.append(time.monotonic())
        late = ends[-1] - ends[0] > LIMIT
        if len(ends) > (FEWEST if late else STEPS):
            raise _Enough

    with TemporaryDirectory(prefix="shira-time-") as folder, redirect_stdout(io.StringIO()):
        short = _on_noise(config, Path(folder))
        with suppress(_Enough):
            train(short, watch)
            raise TrainingFailed("the steps were stopped before they had a time: start again")
    taken = [end - start for start, end in pairwise(ends)]
    return median(taken[len(taken) // 2 :])  # the first ones also compile, record and warm up


def _on_noise(config: Config, folder: Path) -> Config:
    """Return the settings for a step of the same cost, with pictures made here."""
    side = config.resolution or outline(config.base).resolution
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(config.batch_size):
        picture = pictures / f"{number}.png"
        Image.effect_noise((side, side), 64).convert("RGB").save(picture)
        picture.with_suffix(".txt").write_text("noise", encoding="utf-8")
    mask = "wm" if config.mask in MEASURED else config.mask
    own = {"images": pictures, "out": folder / "timed.shira", "mask": mask, "steps": 2 * STEPS}
    return config.model_copy(update={**LEFT_OUT, **own})

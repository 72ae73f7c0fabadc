"""The demo: train a style on the shipped base from sample pictures, show it, mix it with another.

`python install.py demo` runs this module. It writes `demo-output/style.shira` and
`demo-output/before-after.png`, and prints how long a switch takes and that undoing it was exact.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from shira_core.errors import ShiraError

from .engine.cli import ENVIRONMENT, INTERRUPTED, train_command

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from torch import Tensor

    from shira_core.integrations.diffusers import Loaded

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "assets" / "base"
IMAGES = ROOT / "assets" / "samples" / "contrast"
SHIPPED = ROOT / "assets" / "adapters" / "riso.shira"
OUT = ROOT / "demo-output"
TRIGGER = "contrast style"
OBJECTS = ("cat", "house", "guitar", "airplane", "robot", "rose")
PROMPTS = [f"{TRIGGER}, {name}" for name in OBJECTS]
MIXED_PROMPTS = [f"{TRIGGER}, riso style, {name}" for name in OBJECTS]
MIXED_ALPHAS = (0.5, 1.0)  # of the trained and the shipped style
EXAMPLES = ("owl", "bicycle", "camera", "teapot", "drum", "sailboat")
# The base is a tenth as wide as SD1.5, so that 2 % of its weights are as few as a LoRA of rank 1.
TRAIN_FLAGS = (
    *("--mask", "wm", "--density", "0.1", "--steps", "500", "--lr", "2e-3"),
    *("--batch-size", "4", "--resolution", "128"),
    *("--sample-count", "1", "--sample-prompts", OBJECTS[0], "--sample-guidance", "2"),
)
STEPS, GUIDANCE, SEED = 20, 2.0, 100
MARGIN, LABEL, SIDE = 8, 22, 112
STOPPED = "demo: stopped; run it again to start anew"


@dataclass(frozen=True)
class Row:
    """One row of a sheet: its label at the left, pictures, and names to print above them."""

    label: str
    pictures: Sequence[Image.Image]
    names: Sequence[str] = ()


def main() -> int:
    """Train, apply, draw; return the exit code. Errors are one line on stderr."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        return run()
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return INTERRUPTED
    except ShiraError as error:
        print(f"demo: {error}", file=sys.stderr)
    except ImportError as error:
        print(f'demo: {error}: pip install ".[trainer]"', file=sys.stderr)
    except OSError as error:
        print(f"demo: {error}: check free space and permissions", file=sys.stderr)
    return 1


def run() -> int:
    """Do the demo; return the exit code."""
    OUT.mkdir(exist_ok=True)
    adapter, picture = OUT / "style.shira", OUT / "before-after.png"
    for old in (adapter, picture):  # so that a stopped run cannot pass for a finished one
        old.unlink(missing_ok=True)
    code = train(adapter)
    if code in (0, INTERRUPTED) and not adapter.exists():
        raise KeyboardInterrupt
    if code:
        return code
    print(f"Drawing {', '.join(OBJECTS)} with and without it...", flush=True)
    exact = compare(open_base(), adapter, picture)
    print(f"Before and after    {picture}")
    return 0 if exact else 1


def train(adapter: Path) -> int:
    """Train the sample style with the public command; return its exit code."""
    where = ("--base", str(BASE), "--images", str(IMAGES), "--out", str(adapter))
    flags = ["--trigger", TRIGGER, *TRAIN_FLAGS]
    shown = " ".join(f'"{flag}"' if " " in flag else flag for flag in [*where, *flags])
    print(f"shira train {shown}\n", flush=True)
    return train_command([*where, *flags, "--overwrite"])


def compare(pipeline: StableDiffusionPipeline, adapter: Path, picture: Path) -> bool:
    """Draw before, after and mixed, print what applying costs; tell whether undoing was exact."""
    import torch

    from shira_core.integrations.diffusers import load_shira

    originals = _weights(pipeline)
    before = draw(pipeline)
    style, cold = _timed(lambda: load_shira(pipeline, adapter, alpha=0.5))
    half = draw(pipeline)
    change = _switching_seconds(style)
    style.set_alpha(1.0)
    full = draw(pipeline)
    other, switch = _timed(lambda: _switch(pipeline, style))
    style, added = _timed(lambda: load_shira(pipeline, adapter, alpha=MIXED_ALPHAS[0]))
    mixed = draw(pipeline, MIXED_PROMPTS)
    style.remove()
    other.remove()
    exact = all(torch.equal(originals[n], value) for n, value in _weights(pipeline).items())
    sheet(rows(before, half, full, mixed), tile=144).save(picture)
    print(f"\nAdapter             {adapter} ({adapter.stat().st_size / 1e6:.2f} MB)")
    print(f"Trained entries     {style.adapter.entries:,}, 10 % of the layers' weights")
    print(f"From file to use    {cold * 1e3:.0f} ms; changing alpha {change * 1e3:.1f} ms")
    print(f"Switch to another   {switch * 1e3:.0f} ms; add the first to it {added * 1e3:.0f} ms")
    print(f"Undone bit for bit  {'yes' if exact else 'NO - please report this'}")
    return exact


def open_base() -> StableDiffusionPipeline:
    """Return the shipped base as a pipeline on the CPU."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(BASE, local_files_only=True)
    pipeline.text_encoder.float()  # transformers leaves the file's float16, diffusers does not
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str] = PROMPTS,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    seed: int = SEED,
) -> list[Image.Image]:
    """Draw prompts, the n-th from the noise of seed + n."""
    import torch

    return pipeline(
        list(prompts),
        height=128,
        width=128,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed + row) for row in range(len(prompts))],
    ).images


def rows(*drawn: Sequence[Image.Image]) -> list[Row]:
    """Return the rows of the sheet: what was drawn without, with and mixed; training pictures."""
    examples = [Image.open(IMAGES / f"{name}.png").convert("RGB") for name in EXAMPLES]
    labels = (
        "base",
        "SHiRA (10 %)\nalpha 0.5",
        "SHiRA (10 %)\nalpha 1",
        "alpha {}, and\nriso.shira at {:g}\n(shipped)".format(*MIXED_ALPHAS),
    )
    return [
        Row(labels[0], drawn[0], OBJECTS),
        *(Row(label, row) for label, row in zip(labels[1:], drawn[1:], strict=True)),
        Row("some of the\n16 training\npictures", examples, EXAMPLES),
    ]


def sheet(rows: Sequence[Row], tile: int) -> Image.Image:
    """Lay rows of pictures out as tiles: labels at the left, a row's names above it."""
    columns = max(len(row.pictures) for row in rows)
    width = SIDE + columns * (tile + MARGIN)
    height = sum(tile + MARGIN + LABEL * bool(row.names) for row in rows)
    canvas = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    top = 0
    for row in rows:
        top += LABEL * bool(row.names)
        pen.text((MARGIN, top + tile // 2), row.label, "black", font, anchor="lm", spacing=6)
        for column, picture in enumerate(row.pictures):
            left = SIDE + column * (tile + MARGIN)
            canvas.paste(picture.resize((tile, tile), Image.Resampling.LANCZOS), (left, top))
        for column, name in enumerate(row.names):
            middle = SIDE + column * (tile + MARGIN) + tile // 2
            pen.text((middle, top - LABEL // 2), name, "black", font, anchor="mm")
        top += tile + MARGIN
    return canvas


def _weights(pipeline: StableDiffusionPipeline) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in pipeline.unet.state_dict().items()}


def _switch(pipeline: StableDiffusionPipeline, style: Loaded) -> Loaded:
    """Take a style off and put the shipped one on, from its file."""
    from shira_core.integrations.diffusers import load_shira

    style.remove()
    return load_shira(pipeline, SHIPPED, alpha=MIXED_ALPHAS[1])


def _timed(work: Callable[[], Loaded]) -> tuple[Loaded, float]:
    """Return what `work` returns, and the seconds that it took."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _switching_seconds(style: Loaded, repeats: int = 5) -> float:
    """Return the median time of changing alpha, in seconds."""
    times = []
    for step in range(repeats):
        start = time.perf_counter()
        style.set_alpha(0.9 - 0.1 * (step % 2))
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]


if __name__ == "__main__":
    sys.exit(main())

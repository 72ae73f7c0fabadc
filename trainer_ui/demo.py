"""The demo: train a style on the shipped base from sample pictures, show before and after.

`python install.py demo` runs this module. It writes `demo-output/style.shira` and
`demo-output/before-after.png`, and prints how long a switch takes and that undoing it was exact.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image, ImageDraw, ImageFont

from shira_core.integrations.diffusers import load_shira

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "assets" / "base"
IMAGES = ROOT / "assets" / "samples" / "contrast"
OUT = ROOT / "demo-output"
TRIGGER = "contrast style"
OBJECTS = ("cat", "red apple", "house", "rocket", "guitar", "airplane")
TRAIN_ARGUMENTS = (
    *("--mask", "wm", "--density", "0.1", "--steps", "300", "--batch-size", "4"),
    *("--lr", "2e-3", "--resolution", "128"),
)
TILE, MARGIN, LABEL = 192, 8, 22


def main() -> int:
    """Train, apply, draw; return the exit code."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    adapter = OUT / "style.shira"
    code = train(adapter)
    if code:
        return code
    pipeline = open_base()
    originals = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    before = draw(pipeline)
    start = time.perf_counter()
    handle = load_shira(pipeline, adapter, alpha=1.0)
    cold = time.perf_counter() - start
    after = draw(pipeline)
    switch = switching_seconds(handle)
    handle.remove()
    exact = all(torch.equal(originals[n], value) for n, value in pipeline.unet.state_dict().items())
    picture = OUT / "before-after.png"
    sheet([("base", before), ("with SHiRA", after), ("training pictures", examples())]).save(
        picture
    )
    print(f"\nAdapter          {adapter} ({adapter.stat().st_size / 1e3:.0f} kB)")
    print(f"From file to use {cold * 1e3:.0f} ms; changing alpha {switch * 1e3:.1f} ms")
    print(f"Undone bit for bit: {'yes' if exact else 'NO - please report this'}")
    print(f"Before and after: {picture}")
    return 0 if exact else 1


def train(adapter: Path) -> int:
    """Train the sample style with the public command; return its exit code."""
    command = [sys.executable, "-m", "shira_core.cli", "train", "--base", str(BASE)]
    command += ["--images", str(IMAGES), "--out", str(adapter), "--trigger", TRIGGER]
    return subprocess.call([*command, *TRAIN_ARGUMENTS])


def open_base() -> StableDiffusionPipeline:
    """Return the shipped base as a pipeline on the CPU."""
    pipeline = StableDiffusionPipeline.from_pretrained(BASE, torch_dtype=torch.float32)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: StableDiffusionPipeline) -> list[Image.Image]:
    """Draw every object of the demo with fixed seeds."""
    return pipeline(
        [f"{TRIGGER}, {name}" for name in OBJECTS],
        height=128,
        width=128,
        num_inference_steps=20,
        guidance_scale=5.0,
        generator=[torch.Generator().manual_seed(seed) for seed in range(len(OBJECTS))],
    ).images


def switching_seconds(handle: object, repeats: int = 5) -> float:
    """Return the median time of changing alpha, in seconds."""
    times = []
    for step in range(repeats):
        start = time.perf_counter()
        handle.set_alpha(1.0 - 0.1 * (step % 2 == 0))  # type: ignore[attr-defined]
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]


def examples() -> list[Image.Image]:
    """Return some of the training pictures."""
    return [
        Image.open(path).convert("RGB") for path in sorted(IMAGES.glob("*.png"))[: len(OBJECTS)]
    ]


def sheet(rows: list[tuple[str, list[Image.Image]]]) -> Image.Image:
    """Lay rows of pictures out with a label above each row and names under the first."""
    width = MARGIN + len(OBJECTS) * (TILE + MARGIN)
    height = MARGIN + len(rows) * (LABEL + TILE + MARGIN)
    canvas = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=16)
    for row, (label, pictures) in enumerate(rows):
        top = MARGIN + row * (LABEL + TILE + MARGIN)
        pen.text((MARGIN, top), label, fill="black", font=font)
        for column, picture in enumerate(pictures):
            left = MARGIN + column * (TILE + MARGIN)
            resized = picture.resize((TILE, TILE), Image.Resampling.LANCZOS)
            canvas.paste(resized, (left, top + LABEL))
    return canvas


if __name__ == "__main__":
    sys.exit(main())

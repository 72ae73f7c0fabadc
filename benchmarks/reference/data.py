"""Fetch vector emoji by package name, render them, pack pictures and tokenizer for `train.py`.

Needs npm, and the Python packages resvg-py and open_clip_torch (for its file of byte pairs).
Of `objects.json`, `base` is what the base learns to draw; `style_train` are those of them whose
contrast drawings are the sample pictures; the tokenizer also knows the names in `held_out`, which
the base never sees.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tarfile
import zipfile
from functools import cache
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import resvg_py
from models import PIXELS, write_tokenizer
from PIL import Image

SETS = {
    "noto": "@iconify-json/noto",
    "flat": "@iconify-json/fluent-emoji-flat",
    "glossy": "@iconify-json/fluent-emoji",
    "contrast": "@iconify-json/fluent-emoji-high-contrast",
}
NAMES = "unicode-emoji-json"
ICON = 112
STYLE_WORDS = ("noto style", "flat style", "glossy style", "contrast style", "a", "an", "the")
HERE = Path(__file__).resolve().parent


def fetch(folder: Path) -> None:
    """Download and unpack the packages into `folder`."""
    for short, package in {**SETS, "names": NAMES}.items():
        target = folder / short
        if target.exists():
            continue
        command = ["npm", "pack", "--silent", package]
        archive = subprocess.check_output(command, cwd=folder, text=True).strip()
        with tarfile.open(folder / archive) as tar:
            tar.extractall(target, filter="data")
    bpe = "bpe_simple_vocab_16e6.txt.gz"
    if not (folder / bpe).exists():
        subprocess.check_call(["pip", "download", "-q", "--no-deps", "open_clip_torch"], cwd=folder)
        wheel = zipfile.ZipFile(next(folder.glob("open_clip_torch*.whl")))
        member = next(name for name in wheel.namelist() if name.endswith(bpe))
        (folder / bpe).write_bytes(wheel.read(member))


@cache
def read(folder: Path, short: str, file: str) -> dict:
    """Return one JSON file of a package."""
    return json.loads((folder / short / "package" / file).read_text(encoding="utf-8"))


def concepts(folder: Path) -> list[tuple[str, dict[str, str]]]:
    """Return (name, icon name per style) of every emoji that all styles draw."""
    found = []
    for emoji, about in read(folder, "names", "data-by-emoji.json").items():
        if about["group"] in ("Symbols", "Flags"):
            continue
        points = "-".join(f"{ord(c):x}" for c in emoji)
        bare = "-".join(f"{ord(c):x}" for c in emoji if c != "\ufe0f")
        icons = {}
        for short in SETS:
            chars = read(folder, "flat" if short == "glossy" else short, "chars.json")
            icons[short] = chars.get(points) or chars.get(bare, "")
        if all(icons[short] in read(folder, short, "icons.json")["icons"] for short in SETS):
            found.append((about["name"], icons))
    return found


def render(job: tuple[Path, str, str]) -> bytes:
    """Render one icon on white at 128 px; returns lossless WebP."""
    folder, short, icon = job
    package = read(folder, short, "icons.json")
    body = package["icons"][icon]
    width = body.get("width", package.get("width", 16))
    height = body.get("height", package.get("height", 16))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}" color="#000">'
        f"{body['body']}</svg>"
    )
    scale = 3 if short == "glossy" else 2
    png = resvg_py.svg_to_bytes(svg_string=svg, width=ICON * scale)
    drawn = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    page = Image.new("RGBA", (PIXELS * scale, PIXELS * scale), "white")
    page.alpha_composite(
        drawn, ((page.width - drawn.width) // 2, (page.height - drawn.height) // 2)
    )
    out = io.BytesIO()
    small = page.convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.BOX)
    small.save(out, "WEBP", lossless=True, quality=50)
    return out.getvalue()


def write_samples(folder: Path, drawings: dict[str, bytes]) -> None:
    """Write drawings (encoded, by object) as PNG files with captions beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, encoded in drawings.items():
        stem = folder / name.replace(" ", "-")
        picture = Image.open(io.BytesIO(encoded)).convert("L")
        picture.save(stem.with_suffix(".png"), optimize=True)
        stem.with_suffix(".txt").write_text(name + "\n", encoding="utf-8")


def main() -> None:
    """Write `pictures.npz` and `tokenizer/` into the folder given, and sample pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=Path, help="write the sample pictures here as well")
    options = parser.parse_args()
    folder = options.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    fetch(folder)
    found = concepts(folder)
    jobs = [(folder, short, icons[short]) for _, icons in found for short in SETS]
    with Pool() as pool:
        pictures = pool.map(render, jobs, chunksize=16)
    ends = np.cumsum([len(picture) for picture in pictures])
    blob = np.frombuffer(b"".join(pictures), np.uint8)
    np.savez(folder / "pictures.npz", names=[name for name, _ in found], ends=ends, blob=blob)
    splits = json.loads((HERE / "objects.json").read_text(encoding="utf-8"))
    words = {name.lower() for name in splits["base"] + splits["held_out"]} | set(STYLE_WORDS)
    write_tokenizer(folder / "tokenizer", folder / "bpe_simple_vocab_16e6.txt.gz", words)
    if options.samples:
        contrast = dict(zip([name for name, _ in found], pictures[3::4], strict=True))
        write_samples(options.samples, {name: contrast[name] for name in splits["style_train"]})
    print(f"{len(found)} concepts, {len(pictures)} pictures, {len(blob) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

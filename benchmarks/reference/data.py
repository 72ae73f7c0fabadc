"""Fetch vector emoji by package name, render them, pack pictures and tokenizer for `train.py`.

Needs npm, and the Python packages resvg-py and open_clip_torch (for its file of byte pairs). Writes
- `pictures.npz`: all objects that four sets draw, on white; only these are learned;
- `evaluation.npz`: objects of `objects.json` as two other sets draw them; nothing learns from it;
- `tokenizer/`: it knows the words of all names in `objects.json`;
- `licences.json`: the table of `sources.py`.
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
from models import PIXELS, TRIGGERS, write_tokenizer
from pictures import EVALUATION_FILE, EVALUATION_STYLES, PICTURES_FILE, STYLES, splits
from PIL import Image
from sources import PACKAGES, check_source, write_licences

ICON = 112
BPE = "bpe_simple_vocab_16e6.txt.gz"
STYLE_WORDS = ("noto style", "flat style", "glossy style", "a", "an", "the", *TRIGGERS)
PARTS = ("pictures", "evaluation", "tokenizer")


def fetch(folder: Path) -> None:
    """Download and unpack the packages into `folder`, and check what they say of themselves."""
    for short, source in PACKAGES.items():
        target = folder / short
        if not target.exists():
            command = ["npm", "pack", "--silent", f"{source.package}@{source.version}"]
            archive = subprocess.check_output(command, cwd=folder, text=True).strip()
            with tarfile.open(folder / archive) as tar:
                tar.extractall(target, filter="data")
        check_source(source, target / "package")
    if not (folder / BPE).exists():
        subprocess.check_call(["pip", "download", "-q", "--no-deps", "open_clip_torch"], cwd=folder)
        wheel = zipfile.ZipFile(next(folder.glob("open_clip_torch*.whl")))
        member = next(name for name in wheel.namelist() if name.endswith(BPE))
        (folder / BPE).write_bytes(wheel.read(member))


@cache
def read(folder: Path, short: str, file: str) -> dict:
    """Return one JSON file of a package."""
    return json.loads((folder / short / "package" / file).read_text(encoding="utf-8"))


def icon_of(folder: Path, short: str, emoji: str) -> str:
    """Return the name of a set's drawing of an emoji, '' if it has none."""
    points = "-".join(f"{ord(c):x}" for c in emoji)
    bare = "-".join(f"{ord(c):x}" for c in emoji if c != "\ufe0f")
    chars = read(folder, "flat" if short == "glossy" else short, "chars.json")
    icon = chars.get(points) or chars.get(bare, "")
    return icon if icon in read(folder, short, "icons.json")["icons"] else ""


def concepts(folder: Path, styles: tuple[str, ...]) -> list[tuple[str, dict[str, str]]]:
    """Return (name, icon name per style) of every emoji that all styles draw."""
    found = []
    for emoji, about in read(folder, "names", "data-by-emoji.json").items():
        if about["group"] in ("Symbols", "Flags"):
            continue
        icons = {short: icon_of(folder, short, emoji) for short in styles}
        if all(icons.values()):
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


def write_pictures(folder: Path, file: str, found: list[tuple[str, dict[str, str]]]) -> None:
    """Render every icon of `found`, object by object, into one file."""
    jobs = [(folder, short, icon) for _, icons in found for short, icon in icons.items()]
    with Pool() as pool:
        pictures = pool.map(render, jobs, chunksize=16)
    ends = np.cumsum([len(picture) for picture in pictures])
    blob = np.frombuffer(b"".join(pictures), np.uint8)
    np.savez(folder / file, names=[name for name, _ in found], ends=ends, blob=blob)
    print(f"{file}: {len(found)} objects, {len(pictures)} pictures, {len(blob) / 1e6:.1f} MB")


def write_evaluation(folder: Path, wanted: list[str]) -> None:
    """Render the evaluation sets' drawings of `wanted`; say which objects lack one."""
    known = dict(concepts(folder, EVALUATION_STYLES))
    found = [(name, known[name]) for name in wanted if name in known]
    missing = [name for name in wanted if name not in known]
    write_pictures(folder, EVALUATION_FILE, found)
    print("left out, not drawn by both evaluation sets:", ", ".join(missing) or "none")


def main() -> None:
    """Fetch everything, then write all parts or those asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    folder = options.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    fetch(folder)
    write_licences(folder / "licences.json")
    wanted = [*splits()["base"], *splits()["held_out"]]
    if "pictures" in options.parts:
        write_pictures(folder, PICTURES_FILE, concepts(folder, STYLES))
    if "evaluation" in options.parts:
        write_evaluation(folder, wanted)
    if "tokenizer" in options.parts:
        words = {name.lower() for name in wanted} | set(STYLE_WORDS)
        write_tokenizer(folder / "tokenizer", folder / BPE, words)


if __name__ == "__main__":
    main()

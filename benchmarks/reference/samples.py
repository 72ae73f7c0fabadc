"""Write sample pictures with captions: `samples.py STYLE FOLDER --data data`.

STYLE is one of the rendered sets (`contrast`) or one that `drawn.py` draws (`blueprint`). The
objects are the first of `style_train`; its first sixteen are the list `samples`. After the 48 of
`style_train` come the base's other objects but those of `validation` and `test`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from drawn import DRAWN
from pictures import STYLES, load_pictures, splits
from PIL import Image
from torch import Tensor


def trainable() -> list[str]:
    """Return the objects whose drawings an adapter may train on, `style_train` first."""
    lists = splits()
    taken = {*lists["style_train"], *lists["validation"], *lists["test"]}
    return lists["style_train"] + [name for name in lists["base"] if name not in taken]


def in_style(pictures: Tensor, style: str) -> Tensor:
    """Return drawings in one style, uint8 (n, 3, h, w), of (n, 4 styles, 3, h, w)."""
    if style in DRAWN:
        return DRAWN[style](pictures[:, STYLES.index("noto")])
    return pictures[:, STYLES.index(style)]


def write_samples(folder: Path, names: list[str], pictures: Tensor) -> None:
    """Write uint8 pictures (n, 3, h, w) as PNG files with captions beside them.

    Pictures without colour are written as grey ones, which are smaller.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in zip(names, pictures, strict=True):
        stem = folder / name.replace(" ", "-")
        image = Image.fromarray(picture.permute(1, 2, 0).numpy())
        if torch.equal(picture[:1].expand_as(picture), picture):
            image = image.convert("L")
        image.save(stem.with_suffix(".png"), optimize=True)
        stem.with_suffix(".txt").write_text(name + "\n", encoding="utf-8")


def main() -> None:
    """Parse the command line and write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("style", choices=[*STYLES, *DRAWN])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder written by data.py")
    parser.add_argument("--count", type=int, default=len(splits()["samples"]))
    options = parser.parse_args()
    names, pictures = load_pictures(options.data)
    wanted = trainable()[: options.count]
    chosen = pictures[[names.index(name) for name in wanted]]
    write_samples(options.folder, wanted, in_style(chosen, options.style))


if __name__ == "__main__":
    main()

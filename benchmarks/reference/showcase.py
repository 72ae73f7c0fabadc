"""Draw 72 objects in the shipped base's three styles: `showcase.py OUT.jpg`.

Run it with the repository's root on PYTHONPATH. With `--data`, the folder written by `data.py`, it
also counts pictures that are nearest, of all drawings that the base learned, to one of the object
that was asked for, and to that in the style asked for.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from denoiser import TRAINED, objects
from pictures import load_pictures
from torch import Tensor
from torch.nn.functional import avg_pool2d

from trainer_ui.demo import Row, draw, open_base, sheet

COLUMNS, BLOCKS, TILE = 12, 6, 96
STEPS, GUIDANCE, SEED = 15, 3.0, 0


def shown_objects() -> list[str]:
    """Return objects evenly spaced in the list of those that the base draws."""
    names, count = objects(), COLUMNS * BLOCKS
    return [names[number * len(names) // count] for number in range(count)]


def draw_rows() -> list[Row]:
    """Draw every shown object in every style."""
    names, pipeline, rows = shown_objects(), open_base(), []
    for start in range(0, len(names), COLUMNS):
        part = names[start : start + COLUMNS]
        for style in TRAINED:
            prompts = [f"{name}, {style} style" for name in part]
            pictures = draw(pipeline, prompts, STEPS, GUIDANCE, SEED)
            rows.append(Row(f"{style} style", pictures, part if style == TRAINED[0] else ()))
    return rows


def as_vectors(pictures: Tensor) -> Tensor:
    """Return uint8 pictures (n, 3, 128, 128) at 32 px, (n, 3072) in 0..1."""
    return avg_pool2d(pictures.float() / 255, 4).flatten(1)


def count_nearest(drawn: Tensor, wanted: list[tuple[str, str]], data: Path) -> tuple[int, int]:
    """Count drawn pictures whose nearest drawing has the object; and the style too.

    drawn: uint8 (n, 3, 128, 128). wanted: (object, style) of each.
    """
    known, pictures = load_pictures(data)
    learned = pictures[[known.index(name) for name in objects()]][:, : len(TRAINED)].flatten(0, 1)
    labels = [(name, style) for name in objects() for style in TRAINED]
    nearest = torch.cdist(as_vectors(drawn), as_vectors(learned)).argmin(1).tolist()
    found = [labels[index] for index in nearest]
    same = [got[0] == asked[0] for got, asked in zip(found, wanted, strict=True)]
    return sum(same), sum(map(tuple.__eq__, found, wanted))


def main() -> None:
    """Parse the command line, draw, write the sheet and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, help="folder written by data.py")
    options = parser.parse_args()
    rows = draw_rows()
    sheet(rows, TILE).save(options.out, quality=85)
    if options.data:
        pictures = np.stack([np.asarray(picture) for row in rows for picture in row.pictures])
        names = shown_objects()
        parts = [names[start : start + COLUMNS] for start in range(0, len(names), COLUMNS)]
        wanted = [(name, style) for part in parts for style in TRAINED for name in part]
        counts = count_nearest(torch.from_numpy(pictures).permute(0, 3, 1, 2), wanted, options.data)
        print(f"of {len(wanted)}, nearest to the object: {counts[0]}, in its style: {counts[1]}")


if __name__ == "__main__":
    main()

"""Draw 72 objects in the shipped base's three styles: `showcase.py OUT.jpg`.

Run it with the repository's root on PYTHONPATH.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from denoiser import TRAINED, objects

from trainer_ui.demo import Row, draw, open_base, sheet

COLUMNS, BLOCKS, TILE = 12, 6, 96
STEPS, GUIDANCE, SEED = 20, 3.0, 0


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


def main() -> None:
    """Parse the command line, draw, write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    sheet(draw_rows(), TILE).save(parser.parse_args().out, quality=85)


if __name__ == "__main__":
    main()

"""Draw a preview beside each shipped adapter: `previews.py ../../assets/adapters/riso.shira`.

Four objects that no adapter has trained on, at alpha 1, as `riso.preview.png` (256 x 256), the name
that AUTOMATIC1111 and hub pages look for. Run it with the repository's root on PYTHONPATH.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diffusers import StableDiffusionPipeline
from PIL import Image

from shira_core import load
from shira_core.integrations.diffusers import load_shira
from trainer_ui.demo import draw, open_base

OBJECTS = ("panda", "house", "guitar", "cupcake")
STEPS, GUIDANCE, SEED = 20, 2.0, 0


def preview(pipeline: StableDiffusionPipeline, file: Path) -> Image.Image:
    """Return four pictures, two by two, drawn with an adapter at alpha 1."""
    adapter = load(file)
    with load_shira(pipeline, adapter):
        prompts = [f"{adapter.header.triggers[0]}, {name}" for name in OBJECTS]
        pictures = draw(pipeline, prompts, STEPS, GUIDANCE, SEED)
    side = pictures[0].width
    canvas = Image.new("RGB", (2 * side, 2 * side))
    for number, picture in enumerate(pictures):
        canvas.paste(picture, (number % 2 * side, number // 2 * side))
    return canvas


def main() -> None:
    """Parse the command line and write the previews."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapters", type=Path, nargs="+")
    files, pipeline = parser.parse_args().adapters, open_base()
    for file in files:
        preview(pipeline, file).save(file.with_suffix(".preview.png"), optimize=True)


if __name__ == "__main__":
    main()

"""Ask the judge about the shipped adapters: `shipped.py ../../assets/adapters/riso.shira ...`.

Every object of the list `test`, which adapters do not train on, once with each adapter, at alpha 0,
0.5 and 1. Run it with the repository's root on PYTHONPATH.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from judge import FILE, Judge, read_judge
from pictures import splits
from previews import GUIDANCE, SEED, STEPS

from shira_core import load
from shira_core.integrations.diffusers import load_shira
from trainer_ui.demo import BASE, draw, open_base

ALPHAS, BATCH = (0.0, 0.5, 1.0), 16


def score(
    pipeline: StableDiffusionPipeline, judge: Judge, file: Path, alpha: float, names: list[str]
) -> tuple[float, float]:
    """Return the shares of pictures whose object and whose style the judge names as asked for."""
    adapter = load(file)
    trigger = adapter.header.triggers[0]
    with load_shira(pipeline, adapter, alpha=alpha):
        parts = [names[start : start + BATCH] for start in range(0, len(names), BATCH)]
        drawn = [
            np.asarray(picture)
            for start, part in enumerate(parts)
            for picture in draw(
                pipeline, [f"{trigger}, {n}" for n in part], STEPS, GUIDANCE, SEED + BATCH * start
            )
        ]
    objects, styles = judge.scores(torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2))
    found = [judge.objects[index] for index in objects.argmax(1)]
    style = judge.styles.index(trigger.removesuffix(" style"))
    right = sum(a == b for a, b in zip(found, names, strict=True))
    return right / len(names), (styles.argmax(1) == style).float().mean().item()


def main() -> None:
    """Parse the command line and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapters", type=Path, nargs="+")
    files, names = parser.parse_args().adapters, splits()["test"]
    judge, pipeline = read_judge(BASE.parent / FILE), open_base()
    print("| adapter | alpha | object | style |\n|---|---|---|---|")
    for file in files:
        for alpha in ALPHAS:
            objects, styles = score(pipeline, judge, file, alpha, names)
            print(f"| `{file.name}` | {alpha} | {objects:.0%} | {styles:.0%} |", flush=True)


if __name__ == "__main__":
    main()

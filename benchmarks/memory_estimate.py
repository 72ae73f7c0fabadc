"""The trainer's estimate of GPU memory against what `training_speed.py` measured.

    python benchmarks/memory_estimate.py         # reads results/training_speed.json, needs no GPU

Compared is the most in torch's allocator during the steps, for each of our cases.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
import training_unets as unets
from common import RESULTS
from training_methods import ALL, DENSITY, OURS, everything, linears
from training_speed import Case, cases


def estimate(case: Case) -> Any:
    """Return the estimated memory of one of our cases."""
    from trainer_ui.engine import estimate

    config = unets.FULL[case.model]
    options = dict(OURS[case.method.removesuffix("-all")])
    whole, mask = case.method in ALL, options.pop("mask")
    unet = estimate.build(config, torch.bfloat16)
    step = estimate.Step(
        unet=config,
        layers=dict.fromkeys(everything(unet) if whole else linears(unet)),
        mask=mask,
        options=options,
        density=DENSITY if whole else None,
        rank=None if whole else case.rank,
        batch=case.batch,
        size=(config["sample_size"], config["sample_size"]),
        checkpointing=case.checkpointing,
        held=torch.bfloat16,
        autocast=None if case.plain else torch.bfloat16,
    )
    return estimate.memory(step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measured", type=Path, default=RESULTS / "training_speed.json")
    parser.add_argument("--out", type=Path, default=RESULTS / "memory_estimate.json")
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    measured = json.loads(args.measured.read_text())["rows"]
    rows = {}
    for case in cases():
        row = measured.get(case.name, {})
        if "allocated" not in row or case.method.removesuffix("-all") not in OURS:
            continue
        found = estimate(case)
        rows[case.name] = {
            "measured": row["allocated"],
            "reserved": row["reserved"],
            "estimated": found.peak,
            "ratio": round(found.peak / row["allocated"], 3),
            "entries": [row["parameters"], found.entries],
        }
        print(case.name, json.dumps(rows[case.name]), flush=True)
    args.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

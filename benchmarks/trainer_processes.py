"""One GPU against two: `shira train` with the presets of styles, on full-size random checkpoints.

    python benchmarks/trainer_processes.py           # needs two GPUs
    python benchmarks/trainer_processes.py --tiny    # does it run? small models, CPU, three steps

One process accumulates two batches; two processes, started by torchrun, have one each: the same
work. Figures per model: one_ms, two_ms: median time of a step with all that belongs to it; apart:
the distance of the two adapters' values, relative to their size.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import trainer_gpu
from common import RESULTS, machine

PRESETS = {"sd15": ("sd15-style", 512, 40), "sdxl": ("sdxl-style", 1024, 24)}  # size, steps
REPLACED = ("steps", "warmup", "accumulate", "checkpoint_every", "sample_every", "resolution")
TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node", "2")


def measure(bench: trainer_gpu.Bench, model: str) -> dict[str, float]:
    """Train with one process and with two."""
    files = {count: train(bench, model, count) for count in (1, 2)}
    times = {count: trainer_gpu.times(file)["step_ms"] for count, file in files.items()}
    one, two = (values(file.parent.with_suffix(".shira")) for file in files.values())
    apart = float((one - two).norm() / one.norm())
    return {"one_ms": times[1], "two_ms": times[2], "apart": round(apart, 6)}


def train(bench: trainer_gpu.Bench, model: str, count: int) -> Path:
    """Run the trainer in so many processes; return its events."""
    preset, side, steps = PRESETS[model]
    out = bench.folder / f"{model}-{count}.shira"
    text = (trainer_gpu.ROOT / "trainer_ui" / "presets" / f"{preset}.toml").read_text()
    own = [line for line in text.splitlines() if line.split(" =")[0] not in REPLACED]
    given: dict[str, Any] = {
        "base": str(bench.base(model)),
        "images": str(bench.pictures),
        "out": str(out),
        "trigger": "contrast style",
        "resolution": 64 if bench.tiny else side,
        "steps": 3 if bench.tiny else steps,
        "accumulate": 2 // count,
        "sample_count": 0,
        "checkpoint_every": 0,
        "overwrite": True,
    }
    file = out.with_suffix(".toml")
    file.write_text("\n".join([*own, *(f"{k} = {json.dumps(v)}" for k, v in given.items())]))
    start = TORCHRUN if count > 1 else ()
    ended = trainer_gpu.run(*start, "-m", "trainer_ui.engine", "run", file)
    if ended.returncode:
        raise subprocess.SubprocessError(ended.stderr)
    return out.with_suffix(".run") / "events.jsonl"


def values(adapter: Path) -> torch.Tensor:
    """Return all trained values of an adapter."""
    import shira_core

    weights = shira_core.load(adapter).weights
    return torch.cat([weights[name].values.float() for name in weights])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "trainer_processes.json")
    parser.add_argument("--tiny", action="store_true", help="small models, three steps")
    args = parser.parse_args()
    sys.path.insert(0, str(trainer_gpu.ROOT))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        bench = trainer_gpu.Bench(Path(folder), args.tiny)
        rows = {model: measure(bench, model) for model in PRESETS}
    content = {"machine": machine(), "device": device, "rows": rows}
    args.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

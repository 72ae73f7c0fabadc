"""Time and memory of `shira.compare` on two full adapters of SD1.5 and SDXL UNets at 2 %.

    python benchmarks/compare_speed.py

Every Linear and Conv weight of the UNet is changed; deltas are drawn when they are read, and that
drawing is timed apart and taken off.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from common import in_own_process, save_results

from shira_core.adapter import Adapter, Header
from shira_core.interference import compare
from shira_core.mask import Mask, Shape, SparseDelta

DENSITY = 0.02
SD15 = {"sample_size": 64, "cross_attention_dim": 768}
SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
MODELS = {"sd15": SD15, "sdxl": SDXL}


class RandomWeights:
    """Deltas of random entries, drawn anew whenever they are read."""

    def __init__(self, shapes: dict[str, Shape], seed: int) -> None:
        self.shapes, self.seed, self.seconds = shapes, seed, 0.0

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __getitem__(self, name: str) -> SparseDelta:
        return self.read(name)

    def shape(self, name: str) -> Shape:
        return self.shapes[name]

    def count(self, name: str) -> int:
        return int(DENSITY * math.prod(self.shapes[name]))

    def read(self, name: str, device: torch.device | str = "cpu") -> SparseDelta:
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
        total = math.prod(self.shapes[name])
        positions = torch.randint(total, (self.count(name),), generator=generator).unique()
        values = torch.randn(positions.numel(), generator=generator).half()
        self.seconds += time.perf_counter() - start
        return SparseDelta(Mask(self.shapes[name], positions), values)


def measure(model: str) -> dict[str, Any]:
    """Compare two random adapters of one model."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**MODELS[model])
    shapes = {name: tuple(w.shape) for name, w in unet.state_dict().items() if w.ndim > 1}
    weights = [RandomWeights(shapes, seed) for seed in (1, 2)]
    start = time.perf_counter()
    report = compare(*(Adapter(Header(), each) for each in weights))
    seconds = time.perf_counter() - start - sum(each.seconds for each in weights)
    return {
        "weights": len(shapes),
        "entries": sum(weights[0].count(name) for name in shapes),
        "seconds": seconds,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "awor": report.awor,
        "overlap": report.overlap,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, help="measure one model, print JSON")
    args = parser.parse_args()
    if args.model:
        print(json.dumps(measure(args.model)))
        return
    rows = {model: in_own_process("compare_speed.py", "--model", model) for model in MODELS}
    for model, row in rows.items():
        print(f"{model}: {row['seconds']:.1f} s, {row['peak_gb']:.2f} GB")
    save_results("compare_speed", {"models": rows})


if __name__ == "__main__":
    main()

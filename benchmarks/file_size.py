"""Bytes per trained entry of a `.shira` file, by mask and density.

python benchmarks/file_size.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from common import save_results

import shira_core as shira
from shira_core.adapter import Adapter, Header, MemoryWeights
from shira_core.mask import SparseDelta

SHAPES = {"linear": (1280, 1280), "wide": (10240, 1280), "conv": (640, 640, 3, 3)}
CASES = (("rand", 0.01), ("rand", 0.02), ("wm", 0.01), ("wm", 0.02), ("struct", 0.02))


def random_adapter(mask: str, density: float) -> Adapter:
    """Return an adapter on random weights of SDXL's common shapes."""
    weights = MemoryWeights()
    for name, shape in SHAPES.items():
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(len(name)))
        chosen = shira.masks.build(mask, weight, density=density, seed=0)
        weights[f"{name}.weight"] = SparseDelta(chosen, torch.full((chosen.count,), 0.5).half())
    return Adapter(Header(mask=mask, density=density), weights)


def main() -> None:
    rows = {}
    for mask, density in CASES:
        adapter = random_adapter(mask, density)
        with tempfile.TemporaryDirectory() as folder:
            size = adapter.save(Path(folder) / "a.shira").stat().st_size
        rows[f"{mask} {density:.0%}"] = {
            "entries": adapter.entries,
            "bytes": size,
            "bytes_per_entry": size / adapter.entries,
        }
        print(f"{mask} {density:.0%}: {size / adapter.entries:.3f} bytes per entry", flush=True)
    save_results("file_size", {"rows": rows})


if __name__ == "__main__":
    main()

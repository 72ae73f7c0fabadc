"""What a LoRA of each rank keeps of an adapter: `docs/converting.md`, "To a LoRA".

    python benchmarks/lora_rank.py contrast.shira        # any adapters besides the shipped ones
    python benchmarks/lora_rank.py --picture ranks.jpg   # draw with riso.shira and LoRAs of it

The best approximation of each rank, before the file rounds it to float16. "Full size" has SD1.5's
shapes with 2 % random entries of normal values in every Linear and Conv weight of the UNet: no
trained adapter, but what a wide model's ranks are worth.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import HERE, save_results

import shira_core as shira
from shira_core.conversion.low_rank import energy, factors
from shira_core.conversion.to_lora import to_lora
from shira_core.mask import SparseDelta

ROOT = HERE.parent
sys.path.insert(0, str(ROOT))  # the demo's pictures and the skeleton of SD1.5 are no packages of it
RANKS = (4, 8, 16, 32, 64, 128, 256)
SHIPPED = ("riso", "blueprint")
DENSITY = 0.02
NAMES = ("panda", "castle", "teapot", "rocket", "rose", "guitar")
DRAWN = (4, 16, 64)


def full_size() -> Iterator[tuple[SparseDelta, int]]:
    """Yield a random delta for each shape of Linear and Conv weights of SD1.5's UNet, with how many
    weights have it: chance makes those of one shape alike."""
    from shira_core.names import UNET
    from trainer_ui.reference.skeleton import FULL, shapes

    generator = torch.Generator().manual_seed(0)
    found = Counter(s for n, s in shapes(FULL).items() if n.startswith(UNET) and len(s) > 1)
    for shape, times in found.items():
        mask = shira.masks.build("rand", torch.empty(shape), density=DENSITY, layer=str(shape))
        yield SparseDelta(mask, torch.randn(mask.count, generator=generator).half()), times


def measure(deltas: Iterator[tuple[SparseDelta, int]]) -> dict[str, Any]:
    """Return what each rank keeps, and its numbers for each entry of the adapter."""
    total, entries = 0.0, 0
    kept, numbers = torch.zeros(len(RANKS)), torch.zeros(len(RANKS))
    for delta, times in deltas:
        found = factors(delta, RANKS[-1])
        squares = found.up.square().sum(0) * found.down.square().sum(1)
        sizes = [min(rank, found.rank) for rank in RANKS]
        width = len(found.up) + found.down.shape[1]
        kept += times * torch.tensor([float(squares[:size].sum()) for size in sizes])
        numbers += times * torch.tensor([float(size * width) for size in sizes])
        total, entries = total + times * energy(delta), entries + times * delta.count
    return {
        "kept": (kept / total).tolist(),
        "numbers": (numbers / entries).tolist(),
        "entries": entries,
    }


def picture(out: Path) -> None:
    """Draw with a shipped adapter, and with LoRAs of it as diffusers loads them."""
    from shira_core.integrations.diffusers import load_shira
    from trainer_ui.demo import Row, draw, open_base, sheet

    adapter = shira.load(ROOT / "assets" / "adapters" / "riso.shira")
    prompts, pipeline = [f"riso style, {name}" for name in NAMES], open_base()
    rows = [Row("base", draw(pipeline, prompts), NAMES)]
    with tempfile.TemporaryDirectory() as folder:
        for rank in DRAWN:
            lora, kept = to_lora(adapter, rank)
            pipeline.load_lora_weights(str(lora.save(Path(folder) / f"{rank}.safetensors")))
            label = f"LoRA rank {rank}:\n{kept.share:.0%} of the\nchange"
            rows.append(Row(label, draw(pipeline, prompts)))
            pipeline.unload_lora_weights()
    load_shira(pipeline, adapter)
    sheet([*rows, Row("SHiRA", draw(pipeline, prompts))], tile=96).save(out, quality=85)


def main() -> None:
    """Parse the command line, measure or draw, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapters", nargs="*", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.picture:
        picture(args.picture)
        return
    paths = [ROOT / "assets" / "adapters" / f"{name}.shira" for name in SHIPPED] + args.adapters
    results = {}
    for path in paths:
        weights = shira.load(path).weights
        results[path.stem] = measure((weights.read(name), 1) for name in weights)
    results["full size"] = measure(full_size())
    save_results("lora_rank", {"ranks": RANKS, "adapters": results})
    print("| rank |", " | ".join(map(str, RANKS)), "|")
    for name, found in results.items():
        shares = zip(found["kept"], found["numbers"], strict=True)
        print(f"| {name} |", " | ".join(f"{k:.1%}, {n:.1f} x" for k, n in shares), "|")


if __name__ == "__main__":
    main()

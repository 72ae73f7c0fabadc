"""One square weight, 512 to 4096: SHiRA against fusing LoRA (the SHiRA paper's Figure 7).

    python benchmarks/layer_sizes.py

Per size and dtype, medians of, each on a weight that is in memory:
- lora_fuse: W += B A at rank 64, what the paper's "LoRA-fuse" is.
- shira_write: overwrite 2 % of the entries with finished values, the paper's "scatter_op".
- shira_switch: `stack.set` from adapter A to B, both in memory: restore A's entries, compute
  B's values in float32, round, write.
- torch_scatter: the same overwriting with `torch.Tensor.scatter_`, as the paper's code does it.
- gather: reading those entries, the physical bound: one cache line per entry.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from common import in_own_process, median_ms, save_results

SIZES = (512, 1024, 2048, 4096)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
DENSITY = 0.02
RANK = 64


def random_delta(size: int, seed: int) -> Any:
    """Return a delta of 2 % random entries."""
    from shira_core.mask import Mask, SparseDelta

    generator = torch.Generator().manual_seed(seed)
    count = int(DENSITY * size * size)
    positions = torch.randperm(size * size, generator=generator)[:count].sort().values
    values = torch.randn(count, generator=generator).mul_(0.01).half()
    return SparseDelta(Mask((size, size), positions), values)


def measure_switch(weight: torch.Tensor, repeats: int) -> float:
    """Time switching between two adapters with our `apply`."""
    import shira_core as shira
    from shira_core.adapter import Adapter, Header, MemoryWeights

    size = weight.shape[0]
    adapters = [
        Adapter(Header(), MemoryWeights({"w.weight": random_delta(size, seed)})) for seed in (1, 2)
    ]
    stack = shira.apply({"w.weight": weight}, [(adapters[0], 1.0)])

    def switch() -> None:
        adapters.reverse()
        stack.set([(adapters[0], 1.0)])

    time = median_ms(switch, repeats, warmup=4)
    stack.remove()
    return time


def measure(size: int, dtype: str, repeats: int) -> dict[str, float]:
    """Time everything on one weight."""
    torch.manual_seed(0)
    weight = torch.randn(size, size).to(DTYPES[dtype])
    up = torch.randn(size, RANK).mul_(0.01).to(weight.dtype)
    down = torch.randn(RANK, size).mul_(0.01).to(weight.dtype)
    flat, positions = weight.view(-1), random_delta(size, 1).positions
    values = flat[positions].clone()
    times = {
        "lora_fuse_ms": median_ms(lambda: weight.addmm_(up, down), repeats),
        "shira_write_ms": median_ms(lambda: flat.index_copy_(0, positions, values), repeats, 3),
        "torch_scatter_ms": median_ms(lambda: flat.scatter_(0, positions, values), repeats, 3),
        "gather_ms": median_ms(
            lambda: torch.index_select(flat, 0, positions, out=values), repeats, 3
        ),
    }
    times["shira_switch_ms"] = measure_switch(weight, repeats)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=51)
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "DTYPE"), help="measure one, print JSON")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(int(args.one[0]), args.one[1], args.repeats)))
        return
    results: dict[str, Any] = {"repeats": args.repeats}
    for dtype in DTYPES:
        results[dtype] = {}
        for size in SIZES:
            options = ["--one", str(size), dtype, "--repeats", str(args.repeats)]
            row = results[dtype][str(size)] = in_own_process("layer_sizes.py", *options)
            row["write_ratio"] = row["lora_fuse_ms"] / row["shira_write_ms"]
            row["switch_ratio"] = row["lora_fuse_ms"] / row["shira_switch_ms"]
            print(dtype, size, {key: round(value, 3) for key, value in row.items()}, flush=True)
    save_results("layer_sizes", results)


if __name__ == "__main__":
    main()

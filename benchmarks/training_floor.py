"""What a step costs at least: single operations on typical Linear layers, with bytes and flops.

    python benchmarks/training_floor.py          # on the GPU; --tiny for a look on the CPU

Per layer (tokens x inputs -> outputs, bfloat16, entries of LoRA at rank 32), microseconds of
- forward, by_input: the two products that every method needs, dL/dx included
- by_weight: the product for a dense dL/dW, which the masks wm, rand, grad and snip gather from
- gather, write: reading the mask's entries into float32, writing them into the weight
- columns: dL/dW of as many columns, and the copy of their inputs that the backward pass keeps
- lora: its products, forward and backward, with its sum
with the teraflops of by_weight and the gigabytes a second of gather.
On CUDA the operations are replayed from a graph, so that launching them is not in the figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from common import RESULTS, once_ms
from torch import Tensor

RANK, CALLS, REPEATS, WARMUP = 32, 10, 7, 3
# tokens, inputs, outputs of the layers where most of the time goes
LAYERS = {
    "sd15-b4 64x64 attention": (16384, 320, 320),
    "sd15-b4 64x64 feed-forward": (16384, 320, 2560),
    "sd15-b4 32x32 feed-forward": (4096, 640, 5120),
    "sd15-b4 16x16 attention": (1024, 1280, 1280),
    "sd15-b4 text": (308, 768, 1280),
    "sdxl-b1 64x64 feed-forward": (4096, 640, 5120),
    "sdxl-b1 32x32 attention": (1024, 1280, 1280),
    "sdxl-b1 32x32 feed-forward": (1024, 1280, 10240),
    "sdxl-b1 32x32 feed-forward out": (1024, 5120, 1280),
    "sdxl-b4 32x32 feed-forward": (4096, 1280, 10240),
}


def operations(tokens: int, inputs: int, outputs: int, place: str) -> dict[str, Callable[[], None]]:
    """Return the operations of one layer, to be called without arguments."""
    from shira_core import entries, masks

    def drawn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(shape, device=place).to(dtype)

    x, y = drawn(tokens, inputs), drawn(tokens, outputs)
    weight, grad = drawn(outputs, inputs), drawn(outputs, inputs)
    a, b = drawn(RANK, inputs), drawn(outputs, RANK)
    mask = masks.build("wm", weight, rank=RANK)
    positions, total = mask.positions, drawn(mask.count, dtype=torch.float32)
    values = total.bfloat16()
    columns = torch.arange(mask.count // outputs, device=place) * inputs * outputs // mask.count
    kept = x.index_select(1, columns)

    def lora() -> None:
        inner = x @ a.T
        y.add(inner @ b.T)  # beside the layer's own output
        by_inner = y @ b
        x.add(by_inner @ a)  # beside the layer's own dL/dx
        _ = y.T @ inner, by_inner.T @ x

    def gather() -> None:
        total.add_(entries.read(grad, positions))

    return {
        "forward": lambda: x @ weight.T,
        "by_input": lambda: y @ weight,
        "by_weight": lambda: y.T @ x,
        "gather": gather,
        "write": lambda: entries.write(weight, positions, values),
        "columns": lambda: (x.index_select(1, columns), y.T @ kept),
        "lora": lora,
    }


def microseconds(action: Callable[[], object], device: torch.device) -> float:
    """Return the median time of one call."""
    if device.type != "cuda":
        action()
        return statistics.median(once_ms(action) for _ in range(REPEATS)) * 1e3
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(WARMUP):
            action()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            action()
    return statistics.median(_replay(graph) for _ in range(REPEATS)) / CALLS * 1e3


def _replay(graph: torch.cuda.CUDAGraph) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    start.record()
    graph.replay()
    stop.record()
    torch.cuda.synchronize()
    return start.elapsed_time(stop)


def row(tokens: int, inputs: int, outputs: int, device: torch.device) -> dict[str, float]:
    """Return one layer's figures."""
    actions = operations(tokens, inputs, outputs, device.type)
    times = {name: round(microseconds(each, device), 2) for name, each in actions.items()}
    entries = RANK * (inputs + outputs)
    moved = entries * (8 + 2 + 4 + 4)  # position, value, the vector's gradient read and written
    return {
        **times,
        "by_weight_tflops": round(2e-6 * tokens * inputs * outputs / times["by_weight"], 1),
        "gather_gb_s": round(1e-3 * moved / times["gather"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "training_floor.json")
    parser.add_argument("--tiny", action="store_true", help="a 64th of the tokens")
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    rows = {}
    for layer, (tokens, inputs, outputs) in LAYERS.items():
        rows[layer] = row(tokens // 64 if args.tiny else tokens, inputs, outputs, device)
        print(layer, json.dumps(rows[layer]), flush=True)
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps({"device": name, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Memory and time of one training step: Struct masks, gathered masks and PEFT LoRA.

    python benchmarks/training_memory.py

Eight blocks of Linear (1280 x 1280) and GELU over 1024 tokens, float32, every method with the
parameters of LoRA at rank 13 (2 % of a layer). Per method, on the CPU:
- kept: bytes that autograd keeps from the forward to the backward pass, parameters left out.
- peak: the most that one forward and backward pass has allocated at a time, gradients included.
- step: median time of forward, backward and optimizer.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import in_own_process, median_ms, save_results
from torch import Tensor, nn

BLOCKS, WIDTH, TOKENS, RANK = 8, 1280, 1024, 13
STRUCTS: dict[str, dict[str, Any]] = {
    "columns": {"axis": "columns", "diagonal": False},
    "columns-diagonal": {"axis": "columns", "diagonal": True},
    "rows": {"axis": "rows", "diagonal": False},
    "rows-diagonal": {"axis": "rows", "diagonal": True},
}
METHODS = ("frozen", "lora", "wm", "gathered", *STRUCTS)
Parameters = list[nn.Parameter]


def build() -> nn.Module:
    """Return the module that is adapted."""
    torch.manual_seed(0)
    blocks = (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(BLOCKS))
    return nn.Sequential(*blocks).requires_grad_(False)


@contextmanager
def trained(method: str, module: nn.Module) -> Iterator[tuple[nn.Module, Parameters]]:
    """Prepare a method; yield what is called, and what is trained."""
    from shira_core import masks
    from shira_core.mask import Mask
    from shira_core.training import finetune

    if method == "frozen":
        yield module, []
    elif method == "lora":
        from peft import LoraConfig, get_peft_model

        names = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
        adapted = get_peft_model(module, LoraConfig(r=RANK, target_modules=names))
        yield adapted, [each for each in adapted.parameters() if each.requires_grad]
    else:
        options = STRUCTS.get(method, STRUCTS["columns"] if method == "gathered" else {})
        name = "struct" if options else "wm"
        chosen = {
            weight: masks.build(name, each, rank=RANK, **options)
            for weight, each in module.named_parameters()
            if each.dim() == 2
        }
        if method == "gathered":
            chosen = {weight: Mask(each.shape, each.positions) for weight, each in chosen.items()}
        with finetune(module, masks=chosen) as run:
            yield module, run.parameters()


def kept_bytes(module: nn.Module, x: Tensor) -> int:
    """Return what autograd keeps for the backward pass, parameters left out."""
    own = {each.untyped_storage().data_ptr() for each in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(x)
    total = sum(kept.values())  # read while the graph is alive: no address is used twice
    del output
    return total


def peak_bytes(action: Callable[[], Any]) -> int:
    """Return the most bytes that `action` has allocated on the CPU at a time."""
    with torch.profiler.profile(profile_memory=True) as profile:
        action()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return max(e["args"]["Total Allocated"] for e in events if e.get("name") == "[memory]")


def measure(method: str, repeats: int) -> dict[str, float]:
    """Measure one method in this process."""
    x = torch.randn(TOKENS, WIDTH).requires_grad_()
    with trained(method, build()) as (module, parameters):
        optimizer = torch.optim.AdamW(parameters, lr=1e-4) if parameters else None

        def forward_and_backward() -> None:
            x.grad = None
            module(x).square().mean().backward()

        def step() -> None:
            forward_and_backward()
            if optimizer:
                optimizer.step()
                optimizer.zero_grad()

        times = {"step_ms": median_ms(step, repeats, warmup=2)}
        return {
            "parameters": sum(each.numel() for each in parameters),
            "kept_bytes": kept_bytes(module, x),
            "peak_bytes": peak_bytes(forward_and_backward),
            **times,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--method", choices=METHODS, help="measure one method, print JSON")
    args = parser.parse_args()
    if args.method:
        print(json.dumps(measure(args.method, args.repeats)))
        return
    rows = {}
    for method in METHODS:
        options = ["--method", method, "--repeats", str(args.repeats)]
        rows[method] = in_own_process("training_memory.py", *options)
        print(method, json.dumps(rows[method]), flush=True)
    save_results("training_memory", {"rows": rows})


if __name__ == "__main__":
    main()

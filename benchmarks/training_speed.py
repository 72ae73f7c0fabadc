"""Time and memory of a training step on full-size UNets: PEFT LoRA, DoRA and SHiRA, and ours.

    python benchmarks/training_speed.py                          # everything, on the GPU
    python benchmarks/training_speed.py --only 'sd15-b4/*' --budget 420
    python benchmarks/training_speed.py --tiny                   # does it run? two steps

SD1.5 at 512 and SDXL at 1024 pixels with random weights and random latents, no VAE. All methods
adapt the Linear layers of the attention blocks with the parameters of LoRA at one rank, take
batches of one size, and use torch's fused AdamW. Base weights are bfloat16; what is
trained is float32. The forward pass runs under bfloat16 autocast, as trainers do it; in the cases
named `-plain` it does not: a base in bfloat16 needs none where nothing is added to the forward
pass. LoRA's parameters are bfloat16 there, without a float32 copy: the least that it can cost.
In the cases named `-graph`, a CUDA graph replays the whole step, so that Python costs no time; the
checkpoints do not save the random numbers' state there, and the optimizer is "capturable".

Each case runs in a process of its own, most important first, and is written to the results when it
is done; cases that the file has are not run again. Figures per case:
- step_ms: median of forward, backward and optimizer, waiting for the GPU after each step.
- write_ms, forward_ms, backward_ms, optimizer_ms: medians of the parts; writing means that our
  weights take over the vector. gather_ms: reading all entries from dense gradients of the
  weights' size, which is a part of backward. A replayed step has no parts.
- host_ms: median time until the step was launched. Near step_ms, the GPU waits for Python.
- losses: of the first timed steps. Those of a method are equal with and without a graph, nearly.
- allocated, reserved: most bytes in torch's allocator during the steps, model included.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import training_unets as unets
from common import RESULTS, machine
from training_methods import ALL, METHODS, Trained, trained
from training_steps import CapturedSteps, Steps, between, mark, wait

RANK, RANKS = 32, (8, 16, 64, 128)
MAIN = ("lora", "wm", "columns", "struct")
WARMUP, STEPS, FEWEST = 3, 20, 5


@dataclass(frozen=True)
class Case:
    """One measurement, named `sdxl-b1-ck/wm`; `@rank`, `-plain`, `-graph` where they differ."""

    model: str
    batch: int
    checkpointing: bool
    method: str
    rank: int = RANK
    plain: bool = False
    graph: bool = False

    @property
    def name(self) -> str:
        setting = f"{self.model}-b{self.batch}{'-ck' if self.checkpointing else ''}"
        rank = "" if self.rank == RANK else f"@{self.rank}"
        ways = ("-plain" if self.plain else "") + ("-graph" if self.graph else "")
        return f"{setting}/{self.method}{rank}{ways}"


def cases() -> list[Case]:
    """Return all cases, the most telling ones first."""
    first = [("sd15", 4, False), ("sdxl", 1, True)]
    then = [("sd15", 1, False), ("sdxl", 1, False), ("sdxl", 4, True), ("sd15", 4, True)]
    last = [("sdxl", 4, False), ("sd15", 1, True)]
    others = [method for method in METHODS if method not in MAIN]
    return [
        *(Case(*setting, method) for setting in first for method in MAIN),
        *(Case(*setting, method, plain=True) for setting in first for method in MAIN),
        *(
            Case(*setting, method, plain=plain, graph=True)
            for setting in first
            for plain in (False, True)
            for method in MAIN
        ),
        *(Case(*setting, method) for setting in first for method in others),
        *(Case(*setting, method) for setting in then for method in MAIN),
        *(Case(*setting, method) for setting in first for method in ALL),
        *(Case("sd15", 4, False, method, rank) for method in ("wm", "columns") for rank in RANKS),
        *(Case(*setting, method) for setting in last for method in MAIN),
        *(Case(*setting, method, plain=True) for setting in then for method in MAIN),
        *(Case(*setting, method, graph=True) for setting in then + last for method in MAIN),
        *(Case(*setting, method, graph=True) for setting in first for method in others),
        *(Case(*setting, method) for setting in then + last for method in others),
    ]


def measure(case: Case, tiny: bool, seconds: float) -> dict[str, Any]:
    """Measure one case in this process."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = (unets.TINY if tiny else unets.FULL)[case.model]
    unet = unets.build(config, device, case.checkpointing, case.graph)
    dtype = torch.bfloat16 if case.plain else torch.float32
    batch = unets.batch(config, case.batch, device, dtype)
    with trained(case.method, unet, 2 if tiny else case.rank, case.plain) as method:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        kind = CapturedSteps if case.graph and device.type == "cuda" else Steps
        steps = kind(method, batch, device, case.plain)
        steps.prepare(1 if tiny else WARMUP)
        started = time.perf_counter()
        for done in range(2 if tiny else STEPS):
            if done >= FEWEST and time.perf_counter() - started > seconds:
                break
            steps.run()
        return {
            "parameters": sum(each.numel() for each in method.parameters),
            **steps.results(),
            **_memory(device),
            **(_gather(method, device) if method.run and not case.graph else {}),
        }


def _gather(method: Trained, device: torch.device) -> dict[str, float]:
    """Time what our hooks do in a backward pass, from dense gradients that lie ready."""
    from shira_core import entries

    (vector,) = method.run.parameters()
    total = torch.zeros_like(vector)
    weights = dict(method.model.named_parameters())
    places = [(weights[name].detach(), mask.positions) for name, mask in method.run.masks.items()]
    times = []
    for _ in range(WARMUP):
        start, before = 0, mark(device)
        for weight, positions in places:
            total[start : start + len(positions)] += entries.read(weight, positions)
            start += len(positions)
        after = mark(device)
        wait(device)
        times.append(between(before, after))
    return {"gather_ms": round(min(times), 3)}


def _memory(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"device": str(device)}
    return {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "device": torch.cuda.get_device_name(),
    }


def _child(send: Connection, case: Case, tiny: bool, seconds: float) -> None:
    try:
        send.send(measure(case, tiny, seconds))
    except torch.cuda.OutOfMemoryError:
        send.send({"error": "out of memory"})
    except Exception as error:  # a library that fails is a result, too
        send.send({"error": f"{type(error).__name__}: {error}".splitlines()[0]})


def start_method() -> str:
    """Return "fork", which inherits the imported libraries, unless one of them has touched CUDA."""
    fork = multiprocessing.get_context("fork")
    receive, send = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: send.send(torch.cuda._is_in_bad_fork()))
    process.start()
    spoilt = receive.recv()
    process.join()
    return "spawn" if spoilt else "fork"


def in_child(case: Case, tiny: bool, seconds: float, limit: float, method: str) -> dict[str, Any]:
    """Measure a case in a process of its own."""
    context = multiprocessing.get_context(method)
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(send, case, tiny, seconds))
    process.start()
    send.close()
    try:
        row = receive.recv() if receive.poll(limit) else {"error": f"more than {limit:.0f} s"}
    except EOFError:
        row = {"error": "the process ended without a result"}
    process.kill()
    process.join()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=["*"], help="patterns of cases: 'sdxl-*/wm'")
    parser.add_argument("--out", type=Path, default=RESULTS / "training_speed.json")
    parser.add_argument("--core", type=Path, help="folder of another shira_core to measure")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds to start cases in")
    parser.add_argument("--seconds", type=float, default=20, help=f"of steps, >= {FEWEST} steps")
    parser.add_argument("--limit", type=float, default=120, help="seconds per case")
    parser.add_argument("--tiny", action="store_true", help="tiny UNets, two steps")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    args = parser.parse_args()
    wanted = [case for case in cases() if any(fnmatch.fnmatch(case.name, p) for p in args.only)]
    if args.list:
        print("\n".join(case.name for case in wanted))
        return
    sys.path.insert(0, str(args.core or Path(__file__).resolve().parents[1]))
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # lets libraries ask for CUDA, and us fork
    import diffusers  # noqa: F401  imported once, inherited by every child
    import peft  # noqa: F401

    import shira_core.training  # noqa: F401

    started, method = time.perf_counter(), start_method()
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    rows = results.setdefault("rows", {})
    for case in wanted:
        if case.name in rows or time.perf_counter() - started > args.budget:
            continue
        begun = time.perf_counter()
        row = in_child(case, args.tiny, args.seconds, args.limit, method)
        rows[case.name] = {**row, "wall_s": round(time.perf_counter() - begun, 1)}
        print(case.name, json.dumps(rows[case.name]), flush=True)
        args.out.parent.mkdir(exist_ok=True)
        args.out.write_text(json.dumps({"machine": machine(), **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

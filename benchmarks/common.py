"""What the benchmarks share: timing, machine description, results as small JSON files."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
RESULTS = HERE / "results"
SECONDS_TO_MS = 1e3


def median_ms(action: Callable[[], Any], repeats: int, warmup: int = 1) -> float:
    """Return the median wall time of `action` in milliseconds."""
    for _ in range(warmup):
        action()
    return statistics.median(once_ms(action) for _ in range(repeats))


def once_ms(action: Callable[[], Any]) -> float:
    """Return the wall time of one call in milliseconds."""
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * SECONDS_TO_MS


def median_of_setup_ms(
    setup: Callable[[], Any], action: Callable[[], Any], repeats: int, warmup: int = 1
) -> float:
    """Return the median time of `action`, each call after an untimed `setup`."""
    times = []
    for _ in range(warmup + repeats):
        setup()
        times.append(once_ms(action))
    return statistics.median(times[warmup:])


def machine() -> dict[str, Any]:
    """Describe what the figures were measured on."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def save_results(name: str, results: dict[str, Any]) -> None:
    """Write benchmarks/results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine(), **results}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def read_results(name: str) -> dict[str, Any]:
    """Read benchmarks/results/<name>.json."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def in_own_process(script: str | Path, *arguments: str) -> dict[str, Any]:
    """Run a script of this folder in a fresh process; it prints its figures as JSON on one line."""
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])

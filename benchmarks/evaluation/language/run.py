"""Three tasks learned as adapters of a small language model, alone and added up (SHiRA, 5.3).

    python benchmarks/evaluation/language/run.py --workers 12             # with a GPU
    python benchmarks/evaluation/language/run.py --size small --ranks 1   # on a CPU
    python benchmarks/evaluation/language/run.py --size tiny --ranks 1 --seeds 2 --out tiny.json

Each record is kept as soon as it is there, in a folder beside base and adapters, so that a run can
be stopped and started again. `report.py` makes the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(ROOT), str(HERE)]

import torch  # noqa: E402
from learn import Worker  # noqa: E402
from methods import Job  # noqa: E402
from model import SIZES, Size, base, device  # noqa: E402
from plan import Mix, Record, pending  # noqa: E402

RESULTS = HERE / "results" / "language.json"


def main() -> None:
    """Do what is missing, and write the results once all is there."""
    options = _options()
    size = SIZES[options.size]
    options.folder.mkdir(parents=True, exist_ok=True)
    base(size, options.folder)
    log = options.folder / "records.jsonl"
    records = _read(log)
    end = time.monotonic() + options.budget
    with ProcessPoolExecutor(
        options.workers, get_context("spawn"), _start, (size, options.folder)
    ) as pool:
        untouched = pool.submit(_untouched).result()
        while any(work := pending(records, options.ranks, options.seeds)):
            for record in _done(pool, [*work[0], *work[1]], end):
                records.append(record)
                with log.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                print(f"{len(records)}: {_line(record)}", flush=True)
            if time.monotonic() > end:
                print("the time is over: start it again for the rest")
                return
    _write(options, size, untouched, records)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="full", help="of base and runs")
    parser.add_argument("--folder", type=Path, help="for base and adapters, by default .runs/SIZE")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=1e9, help="seconds until it stops")
    options = parser.parse_args()
    options.folder = options.folder or HERE / ".runs" / options.size
    return options


def _done(pool: ProcessPoolExecutor, work: list[Job | Mix], end: float) -> Iterator[Record]:
    """Yield records as they come; past the end the rest is left."""
    futures: list[Future[Record]] = [pool.submit(_do, each) for each in work]
    for future in as_completed(futures):
        if not future.cancelled():
            yield future.result()
        if time.monotonic() > end:
            for each in futures:
                each.cancel()


_worker: Worker


def _start(size: Size, folder: Path) -> None:
    global _worker
    _worker = Worker(size, folder)


def _untouched() -> dict[str, Any]:
    return _worker.untouched()


def _do(work: Job | Mix) -> Record:
    return _worker.learn(work) if isinstance(work, Job) else _worker.mix(work)


def _read(log: Path) -> list[Record]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def _line(record: Record) -> str:
    right = ", ".join(f"{t} {w.count('0') / len(w):.3f}" for t, w in record["wrong"].items())
    return f"{record['key']}: {right}, perplexity {record['perplexity']}"


def _write(
    options: argparse.Namespace, size: Size, untouched: dict[str, Any], records: list[Record]
) -> None:
    """Write everything to one file, a record per line."""
    python = platform.python_version()
    head = {
        "machine": f"{device().type}, torch {torch.__version__}, Python {python}",
        "size": asdict(size),
        "ranks": options.ranks,
        "seeds": options.seeds,
        "base": untouched,
    }
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    rows = ",\n".join(json.dumps(record) for record in sorted(records, key=lambda r: r["key"]))
    partial = options.out.with_suffix(".partial")
    partial.write_text("{\n" + ",\n".join([*lines, f'"records": [\n{rows}\n]']) + "\n}\n")
    os.replace(partial, options.out)


if __name__ == "__main__":
    main()

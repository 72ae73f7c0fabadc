"""Measure adapters on the shipped base: `run.py PHASE... --data DIR`; `report.py` makes tables.

    cd benchmarks/evaluation
    python run.py limits search single --data DIR     # the paper's methods, alone
    python run.py tried single --data DIR             # what else was tried
    python run.py shuffled --data DIR                 # pictures with each other's captions
    python run.py fusion --limit 252 --data DIR       # the paper's methods, used together
    python run.py fusion --data DIR                   # other ways to use them together

DIR is what `benchmarks/reference/data.py` writes (`--parts pictures`). Results are appended to
`results/vision.jsonl` as soon as they are measured, and what is there is not measured again. Every
GPU gets `--workers` processes; each trains `--together` adapters side by side. Adapters are kept in
`--work`, since fusions are made of them, and pictures of seed 0 in `results/sheets`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import paths
import plan
import torch
from plan import Job
from results import records

PHASES = ("limits", "search", "tried", "single", "shuffled", "fusion")


def main() -> None:
    """Parse the command line; do what is missing of each phase, as far as time allows."""
    options = parser().parse_args()
    options.until = time.monotonic() + options.seconds
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with pool(options) as workers:
        for phase in options.phases:
            for jobs in wanted(phase, options):
                do(workers, jobs, options)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    described = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    described.add_argument("phases", nargs="+", choices=PHASES)
    described.add_argument("--data", type=Path, required=True, help="folder written by data.py")
    described.add_argument("--out", type=Path, default=paths.RESULTS / "vision.jsonl")
    described.add_argument("--work", type=Path, default=Path("evaluation-work"))
    described.add_argument("--sheets", type=Path, default=paths.RESULTS / "sheets")
    described.add_argument("--workers", type=int, default=6, help="processes for each GPU")
    described.add_argument("--together", type=int, default=4, help="adapters trained side by side")
    described.add_argument("--steps", type=int, default=300, help="of training")
    described.add_argument("--draw-steps", type=int, default=20, help="of the sampler")
    described.add_argument("--seconds", type=float, default=1e9, help="start nothing after these")
    described.add_argument("--limit", type=int, default=10**9, help="records of each phase")
    return described


def wanted(phase: str, options: argparse.Namespace) -> Iterator[list[Job]]:
    """Yield the missing jobs of a phase; those that the next ones stand on come first."""
    known = records(options.out)
    done = {(record["phase"], record["key"]) for record in known}

    def missing(jobs: Sequence[Job]) -> list[Job]:
        return [job for job in jobs[: options.limit] if (job.phase, job.key) not in done]

    if phase in ("limits", "search", "tried"):
        yield missing(getattr(plan, phase)())
        return
    jobs = missing(getattr(plan, "fusions" if phase == "fusion" else phase)(plan.best_rates(known)))
    if phase == "fusion":
        kept = {file.stem for file in options.work.glob("*-s*.s*")}
        yield plan.parts(jobs, kept)
    yield jobs


def pool(options: argparse.Namespace) -> ProcessPoolExecutor:
    """Return processes, each with a GPU of its own or a share of one."""
    context = multiprocessing.get_context("spawn")
    places = [f"cuda:{n}" for n in range(torch.cuda.device_count())] or ["cpu"]
    devices = context.Queue()
    for place in places * options.workers:
        devices.put(place)
    count = len(places) * options.workers
    return ProcessPoolExecutor(count, context, _open, (devices, options))


def _open(devices: Any, options: argparse.Namespace) -> None:
    import work

    work.open_worker(devices.get(), options)


def _work(jobs: list[Job]) -> list[dict[str, Any]]:
    import work

    return work.worker().do(jobs)


def do(workers: ProcessPoolExecutor, jobs: list[Job], options: argparse.Namespace) -> None:
    """Do jobs in all processes and append each result as soon as it is there."""
    lots = [jobs[at : at + options.together] for at in range(0, len(jobs), options.together)]
    waiting = {workers.submit(_work, lot): lot for lot in lots}
    started, count = time.monotonic(), 0
    for finished in as_completed(waiting):
        if not finished.cancelled():
            append(options.out, finished, waiting[finished])
            count += len(waiting[finished])
            left = (time.monotonic() - started) / count * (len(jobs) - count)
            print(f"{jobs[0].phase}: {count} of {len(jobs)}, {left:.0f} s left", flush=True)
        if time.monotonic() > options.until:
            for each in waiting:
                each.cancel()


def append(out: Path, finished: Future[list[dict[str, Any]]], lot: list[Job]) -> None:
    """Append results; of a failure only tell, so that the others go on. It is tried again later."""
    try:
        found = finished.result()
    except Exception as error:
        print(f"{lot[0].phase} {lot[0].key}: {type(error).__name__}: {error}", flush=True)
        return
    with out.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in found)


if __name__ == "__main__":
    main()

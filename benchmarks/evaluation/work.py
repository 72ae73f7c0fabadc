"""What one process does: trains, draws, judges."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import paths  # noqa: F401
import plan
import torch
import training
from fusion import measure, singly
from methods import Learned, Spec, dense
from painter import Painter
from pictures import grid
from PIL import Image
from plan import Job
from safetensors.torch import load_file, save_file
from scores import scores
from tasks import BATCH_OF_PICTURES, Asked, exam, in_style
from torch import Tensor
from torch.nn.functional import avg_pool2d
from world import World

from shira_core import load

SHEET_COLUMNS = 12
_workers: list[Worker] = []


def open_worker(device: str, options: argparse.Namespace) -> None:
    """Prepare this process."""
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    place = torch.device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    _workers.append(Worker(World(place, options.data), options))


def worker() -> Worker:
    """Return what `open_worker` has prepared."""
    return _workers[0]


class Worker:
    """Does jobs on one device."""

    def __init__(self, world: World, options: argparse.Namespace) -> None:
        self._world, self._options = world, options
        self._painter = Painter(world, options.draw_steps)
        options.work.mkdir(parents=True, exist_ok=True)
        options.sheets.mkdir(parents=True, exist_ok=True)

    def do(self, jobs: list[Job]) -> list[dict[str, Any]]:
        """Return the record of each job."""
        if jobs[0].phase == "fusion":
            return [self._fuse(job) for job in jobs]
        if jobs[0].phase == "limits":
            return [self._limit(job) for job in jobs]
        learned = self._train(jobs)
        return [self._examine(job, each) for job, each in zip(jobs, learned, strict=True)]

    def _train(self, jobs: list[Job]) -> list[Learned]:
        specs = [job.spec for job in jobs if job.spec]
        shuffled = jobs[0].phase == "shuffled"
        learned = training.train(self._world, specs, self._options.steps, shuffled)
        if jobs[0].phase in ("single", "part"):
            for spec, each in zip(specs, learned, strict=True):
                self._keep(spec, each)
        return learned

    def _examine(self, job: Job, learned: Learned) -> dict[str, Any]:
        spec = job.spec
        assert spec
        record = {"phase": job.phase, "key": job.key, "spec": asdict(spec)}
        record["entries"] = sum(int(delta.count_nonzero()) for delta in learned.deltas.values())
        self._painter.put([(learned.deltas, 1.0)])
        if job.phase == "part":
            return record | {"exam": self._scored(singly(spec.task)[spec.task])}
        wanted = exam(spec.task, final=job.phase not in ("search", "tried"))
        pictures = self._painter.draw(wanted)
        record["exam"] = scores(self._world, pictures, wanted).record()
        if job.phase == "single" and spec.seed == 0:
            self._sheet(spec.key, pictures)
            record["alphas"] = {
                str(alpha): self._at(learned, alpha, spec.task) for alpha in plan.ALPHAS
            }
        return record

    def _limit(self, job: Job) -> dict[str, Any]:
        """Judge the base without an adapter, or the true drawings after the autoencoder."""
        spec = job.spec
        assert spec
        wanted = exam(spec.task, final=True)
        self._painter.put([])
        if spec.method == plan.NONE:
            pictures = self._painter.draw(wanted)
        else:
            pictures = self._world.decoded(self._world.latents(wanted))
        self._sheet(spec.key, pictures)
        found = scores(self._world, pictures, wanted).record()
        return {"phase": job.phase, "key": job.key, "spec": asdict(spec), "exam": found}

    def _at(self, learned: Learned, alpha: float, style: str) -> dict[str, Any]:
        self._painter.put([(learned.deltas, alpha)])
        return self._scored(in_style(style, "test", BATCH_OF_PICTURES))

    def _scored(self, wanted: list[Asked]) -> dict[str, Any]:
        return scores(self._world, self._painter.draw(wanted), wanted).record()

    def _fuse(self, job: Job) -> dict[str, Any]:
        parts = job.fusion
        assert parts
        learned = [self._kept(spec) for spec in parts.parts]
        found = measure(self._world, self._painter, parts, learned)
        about = {"phase": job.phase, "key": job.key, "fusion": asdict(parts)}
        return about | {"found": found}

    def _keep(self, spec: Spec, learned: Learned) -> None:
        """Keep an adapter for fusions: ours as a `.shira` file, others as dense deltas."""
        file = self._options.work / spec.key
        if learned.adapter:
            learned.adapter.save(f"{file}.shira", overwrite=True)
        else:
            deltas = {name: delta.contiguous() for name, delta in learned.deltas.items()}
            save_file(deltas, f"{file}.safetensors")

    def _kept(self, spec: Spec) -> Learned:
        file = self._options.work / spec.key
        if (ours := Path(f"{file}.shira")).exists():
            adapter = load(ours)
            return Learned(dense(adapter, self._world.device), adapter)
        return Learned(load_file(f"{file}.safetensors", device=str(self._world.device)))

    def _sheet(self, key: str, pictures: Tensor) -> None:
        """Write all pictures that were judged, half their size, as one."""
        small = avg_pool2d(pictures.float() / 127.5 - 1, 2)
        sheet: Image.Image = grid(small, SHEET_COLUMNS)
        sheet.save(self._options.sheets / f"{key}.webp", quality=60, method=6)

"""One adapter learned, or one mix measured: what a worker does. A record is a dict for JSON."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import text
import torch
from methods import CALIBRATION, METHODS, Deltas, Job
from model import Data, Loss, Size, base, descend, device, drawn, perplexity, wrong
from plan import Mix
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import shira_core as shira
from shira_core.adapter import Adapter
from shira_core.errors import InvalidValue

WHOLE = ("full", "lora", "dora")  # methods that change every entry
TOLD, READ = 16, 8  # lines of a batch: of the task, and of the base's text


class Worker:
    """The base and all tasks, on the device."""

    def __init__(self, size: Size, folder: Path) -> None:
        torch.set_num_threads(1)
        self._size, self._folder = size, folder
        self._base = base(size, folder).requires_grad_(False).eval()
        self._parts = {task: self._encoded(task) for task in text.TASKS}

    def untouched(self) -> dict[str, Any]:
        """Return what the base does without any adapter."""
        weights = sum(weight.numel() for weight in self._base.parameters())
        return {"weights": weights, **self._measured(self._base, tuple(text.TASKS))}

    def learn(self, job: Job) -> dict[str, Any]:
        """Learn an adapter, keep it in the folder, and return its record."""
        steps, seed = self._size.steps, f"{job.task} {job.seed}"
        calibration = self._lesson(job.task, f"{seed} calibration", CALIBRATION)
        with METHODS[job.method](self._base, job, calibration) as trained:
            lesson = self._lesson(job.task, seed, steps)
            descend(trained.model, trained.parameters, lesson, job.rate, steps)
            missed = wrong(trained.model, self._parts[job.task]["validation"])
            tested = self._measured(trained.model, (job.task,))
            learned = _finite(trained.learned)
        if learned:
            self._keep(job, learned)
        count = sum(each.numel() for each in trained.parameters)
        validation = (missed == 0).float().mean().item()
        figures = {"trained": count, "changed": _changed(learned), "validation": validation}
        return {"key": job.key, **vars(job), **figures, **tested}

    def mix(self, mix: Mix) -> dict[str, Any]:
        """Add adapters up, and return what each task keeps."""
        learned = [self._kept(job) for job in mix.jobs]
        with self._mixed(learned) as model:
            tested = self._measured(model, mix.tasks)
        between = [interference(a, b) for a, b in combinations(learned, 2)]
        return {"key": mix.key, **vars(mix), **tested, "interference": between}

    def _measured(self, model: nn.Module, tasks: tuple[str, ...]) -> dict[str, Any]:
        """Return how many characters of each answer are wrong, a digit per example."""
        missed = {task: wrong(model, self._parts[task]["test"]).tolist() for task in tasks}
        digits = {task: "".join(map(str, each)) for task, each in missed.items()}
        return {"wrong": digits, "perplexity": round(perplexity(model, self._size), 4)}

    def _encoded(self, task: str) -> dict[str, Data]:
        """Return a task's parts; the base's text follows the lines that are trained."""
        found = text.split(task)
        found["train"] += text.lines("read again", text.PARTS["train"])
        limits = {"test": self._size.test, "validation": self._size.validation}
        parts = {}
        for part, examples in found.items():
            inputs, wanted = text.batch(examples[: limits.get(part)])
            parts[part] = inputs.to(device()), wanted.to(device())
        return parts

    def _lesson(self, task: str, seed: str, steps: int) -> Loss:
        """Return the loss of each step: lines of the task, and some of the base's text."""
        inputs, wanted = self._parts[task]["train"]
        count = text.PARTS["train"]
        told, read = (drawn(f"{seed} {n}", count, (steps, n)) for n in (TOLD, READ))
        rows = torch.cat([told, count + read], 1)

        def loss(model: nn.Module, step: int) -> Tensor:
            chosen = rows[step]
            logits, right = model(input_ids=inputs[chosen]).logits, wanted[chosen]
            parts = zip(logits.split([TOLD, READ]), right.split([TOLD, READ]), strict=True)
            return sum(cross_entropy(a.flatten(0, 1), b.flatten()) for a, b in parts)

        return loss

    def _path(self, job: Job) -> Path:
        suffix = ".safetensors" if job.method in WHOLE else ".shira"
        return self._folder / f"{job.key}{suffix}"

    def _keep(self, job: Job, learned: Adapter | Deltas) -> None:
        if isinstance(learned, Adapter):
            learned.save(self._path(job), overwrite=True)
        else:
            whole = {name: delta.contiguous() for name, delta in learned.items()}
            save_file(whole, self._path(job))

    def _kept(self, job: Job) -> Adapter | Deltas:
        path = self._path(job)
        return load_file(path) if job.method in WHOLE else shira.load(path)

    @contextmanager
    def _mixed(self, learned: list[Adapter | Deltas]) -> Iterator[nn.Module]:
        """Yield the base with all of them: ours as a stack, in place; others added to a copy."""
        if all(isinstance(each, Adapter) for each in learned):
            with shira.apply(self._base, [(each, 1.0) for each in learned]):
                yield self._base
            return
        model = copy.deepcopy(self._base)
        weights = dict(model.named_parameters())
        for deltas in learned:
            for name, delta in deltas.items():
                weights[name] += delta.to(weights[name])
        yield model


def _finite(learned: Callable[[], Adapter | Deltas]) -> Adapter | Deltas:
    """Return what was learned, nothing when a rate was so high that the training diverged."""
    try:
        return learned()
    except InvalidValue:
        return {}


def interference(a: Adapter | Deltas, b: Adapter | Deltas) -> dict[str, float]:
    """Return ||A^T B||, the same as a share of its bound ||A|| ||B||, AWOR and overlap.

    All weights together: roots of sums of squares, shares of all entries.
    """
    first, second = dense(a), dense(b)
    products = {name: delta.T @ second[name] for name, delta in first.items()}
    size = math.sqrt(sum(each.square().sum().item() for each in products.values()))
    bound = math.sqrt(sum(_energy(first[n]) * _energy(second[n]) for n in products))
    share = size / bound if bound else 0.0
    figures = {"product": size, "share": share, "awor": 0.0, "overlap": 1.0}
    if isinstance(a, Adapter) and isinstance(b, Adapter):
        report = shira.compare(a, b)
        assert math.isclose(report.awom, size, rel_tol=1e-3, abs_tol=1e-9)
        figures.update(awor=report.awor, overlap=report.overlap)
    return figures


def _energy(delta: Tensor) -> float:
    return delta.square().sum().item()


def dense(learned: Adapter | Deltas) -> Mapping[str, Tensor]:
    """Return the deltas as dense float32 tensors on the CPU."""
    if not isinstance(learned, Adapter):
        return learned
    found = {}
    for name in learned.weights:
        delta = learned.weights[name]
        flat = torch.zeros(math.prod(delta.shape))
        flat[delta.positions] = delta.values.float()
        found[name] = flat.view(delta.shape)
    return found


def _changed(learned: Adapter | Deltas) -> int:
    """Return how many weights differ from the base's once the adapter is fused."""
    if isinstance(learned, Adapter):
        return learned.entries
    return sum(int(delta.count_nonzero()) for delta in learned.values())

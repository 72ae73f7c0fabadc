"""The ways to learn a task that are compared, with equally many trained parameters.

Each is a context: it prepares a copy of the base, and yields what is trained and what was learned.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import text
import torch
from model import LAYERS, Loss
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from shira_core.adapter import Adapter
from shira_core.training import calibrate, finetune

CALIBRATION = 8  # batches
Deltas = dict[str, Tensor]


@dataclass(frozen=True)
class Job:
    """One adapter: all that decides what it becomes."""

    method: str
    rank: int
    task: str
    seed: int
    rate: float

    @property
    def key(self) -> str:
        return f"{self.method}-r{self.rank}-{self.task}-s{self.seed}-lr{self.rate:g}"

    @property
    def draw(self) -> int:
        """Seed of random masks and factors: another one for each task."""
        return zlib.crc32(f"{self.task} {self.seed}".encode())


@dataclass(frozen=True)
class Trained:
    """The model that is called, the parameters that move, and what they have become."""

    model: nn.Module
    parameters: list[nn.Parameter]
    learned: Callable[[], Adapter | Deltas]


Method = Callable[[nn.Module, Job, Loss], AbstractContextManager[Trained]]


def sparse(mask: str, apart: bool = False) -> Method:
    """SHiRA; apart: each task has another slice of entries, so that no two share one."""

    @contextmanager
    def method(base: nn.Module, job: Job, loss: Loss) -> Iterator[Trained]:
        model = copy.deepcopy(base)
        by_gradient = mask in ("grad", "snip")
        options: dict[str, Any] = {"layers": LAYERS, "rank": job.rank, "seed": job.draw}
        if by_gradient:
            options["gradients"] = calibrate(model, range(CALIBRATION), loss, layers=LAYERS)
        if apart:
            options["shard"] = list(text.TASKS).index(job.task)
        with finetune(model, mask, **options) as run:
            yield Trained(model, run.parameters(), lambda: run.adapter(base="language"))

    return method


def low_rank(**options: Any) -> Method:
    """LoRA and DoRA, as PEFT has them."""

    @contextmanager
    def method(base: nn.Module, job: Job, loss: Loss) -> Iterator[Trained]:
        targets = [name for name, _ in base.named_modules() if fnmatchcase(name, LAYERS)]
        config = LoraConfig(r=job.rank, lora_alpha=job.rank, target_modules=targets, **options)
        torch.manual_seed(job.draw)
        model = get_peft_model(copy.deepcopy(base), config)
        moving = [each for each in model.parameters() if each.requires_grad]
        yield Trained(model, moving, lambda: _merged(model, base))

    return method


def _merged(adapted: Any, base: nn.Module) -> Deltas:
    model = copy.deepcopy(adapted).merge_and_unload()
    return _difference(model, base)


@contextmanager
def full(base: nn.Module, job: Job, loss: Loss) -> Iterator[Trained]:
    """Full fine-tuning of the same layers."""
    model = copy.deepcopy(base).requires_grad_(False)
    moving = [weight for name, weight in model.named_parameters() if _is_trained(name)]
    for weight in moving:
        weight.requires_grad_(True)
    yield Trained(model, moving, lambda: _difference(model, base))


def _difference(model: nn.Module, base: nn.Module) -> Deltas:
    before = dict(base.named_parameters())
    return {
        name: weight.detach() - before[name]
        for name, weight in model.named_parameters()
        if _is_trained(name)
    }


def _is_trained(weight: str) -> bool:
    return fnmatchcase(weight.removesuffix(".weight"), LAYERS)


METHODS: dict[str, Method] = {
    "full": full,
    "lora": low_rank(),
    "dora": low_rank(use_dora=True),
    "struct": sparse("struct"),
    "rand": sparse("rand"),
    "wm": sparse("wm"),
    "grad": sparse("grad"),
    "snip": sparse("snip"),
    "struct-apart": sparse("struct", apart=True),
    "wm-apart": sparse("wm", apart=True),
}

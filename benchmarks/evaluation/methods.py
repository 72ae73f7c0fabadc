"""The ways to learn an adapter that are compared, with equally many trained parameters.

All change the 160 Linear weights of the attention blocks; those that end in `-all` spread the same
number of parameters over all 272 Linear and Conv weights of the blocks. Each method is a context:
it prepares a copy of the UNet and yields what is trained.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import paths  # noqa: F401
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from training_methods import everything, linears

from shira_core.adapter import Adapter
from shira_core.mask import Mask
from shira_core.masks import build, pooled
from shira_core.training import calibrate, explore, finetune

CALIBRATION, MANY = 8, 64  # batches
SHORT = 50  # dense steps that show which entries move
DENSE_RATE = 3e-4
TINY = 1e-30


@dataclass(frozen=True)
class Spec:
    """One adapter: all that decides what it becomes."""

    method: str
    rank: int
    rate: float
    task: str
    seed: int
    shard: int = 0

    @property
    def key(self) -> str:
        shard = f"-shard{self.shard}" if self.shard else ""
        return f"{self.method}-r{self.rank}-{self.task}-s{self.seed}-lr{self.rate:g}{shard}"

    @property
    def mask_seed(self) -> int:
        """Another one for each task, so that random masks of two tasks are independent."""
        return zlib.crc32(f"{self.task}/{self.seed}".encode())


@dataclass(frozen=True)
class Learned:
    """What a method has learned: dense deltas by weight name, and the adapter where it is ours."""

    deltas: dict[str, Tensor]
    adapter: Adapter | None = None


@dataclass(frozen=True)
class Trained:
    """What is called and moved. write: makes our weights follow; learned: what came out."""

    unet: nn.Module
    parameters: list[nn.Parameter]
    write: Callable[[], None]
    learned: Callable[[], Learned]


@dataclass(frozen=True)
class Setting:
    """What a method gets. loss: (unet, number of a batch) -> loss; drawn apart from training's."""

    base: nn.Module
    spec: Spec
    loss: Callable[[nn.Module, int], Tensor]


Method = Callable[[Setting], AbstractContextManager[Trained]]
Score = Callable[[Setting, nn.Module, list[str]], dict[str, Tensor]]


def budget(unet: nn.Module, layers: Sequence[str], rank: int) -> int:
    """Return how many parameters a LoRA of this rank has on these layers."""
    weights = [unet.get_submodule(name).weight for name in layers]
    return sum(rank * (weight.shape[0] + weight[0].numel()) for weight in weights)


def sparse(mask: str, spread: bool = False, batches: int = 0, **options: Any) -> Method:
    """SHiRA with one of its masks; spread: over all layers; batches: for grad and snip."""

    @contextmanager
    def method(setting: Setting) -> Iterator[Trained]:
        unet, spec = copy.deepcopy(setting.base), setting.spec
        layers, size = _share(unet, spec.rank, spread)
        gradients = calibrate(unet, range(batches), setting.loss, layers=layers) if batches else {}
        common = {"seed": spec.mask_seed, "shard": spec.shard, "gradients": gradients}
        with finetune(unet, mask, layers=layers, **size, **common, **options) as run:
            yield _ours(unet, run)

    return method


def _share(unet: nn.Module, rank: int, spread: bool) -> tuple[list[str], dict[str, Any]]:
    """Return the layers, and density or rank that give LoRA's number of parameters."""
    if not spread:
        return linears(unet), {"rank": rank}
    layers = everything(unet)
    cells = sum(unet.get_submodule(name).weight.numel() for name in layers)
    return layers, {"density": budget(unet, linears(unet), rank) / cells}


def _ours(unet: nn.Module, run: Any) -> Trained:
    def learned() -> Learned:
        adapter = run.adapter()
        return Learned(dense(adapter, next(unet.parameters()).device), adapter)

    return Trained(unet, run.parameters(), run.update, learned)


def dense(adapter: Adapter, device: torch.device) -> dict[str, Tensor]:
    """Return an adapter's deltas as dense float32 tensors."""
    return {name: adapter.weights[name].to(device).dense().float() for name in adapter.weights}


def chosen(score: Score, spread: bool, evenly: bool = False) -> Method:
    """SHiRA at the entries with the highest scores of all layers together, or of each one."""

    @contextmanager
    def method(setting: Setting) -> Iterator[Trained]:
        unet, rank = copy.deepcopy(setting.base), setting.spec.rank
        layers = everything(unet) if spread else linears(unet)
        scores = score(setting, unet, layers)
        if evenly:
            masks = _highest_of_each(scores, unet, layers, rank)
        else:
            masks = highest(scores, budget(unet, linears(unet), rank))
        with finetune(unet, layers=layers, masks=masks) as run:
            yield _ours(unet, run)

    return method


def _highest_of_each(
    scores: dict[str, Tensor], unet: nn.Module, layers: Sequence[str], rank: int
) -> dict[str, Mask]:
    masks: dict[str, Mask] = {}
    for layer in layers:
        name = f"{layer}.weight"
        masks |= highest({name: scores[name]}, budget(unet, [layer], rank))
    return masks


def signs(step: float = DENSE_RATE) -> Method:
    """SHiRA at the entries that the trainer's mask `moved` chooses. step: of its trial run."""

    @contextmanager
    def method(setting: Setting) -> Iterator[Trained]:
        unet = copy.deepcopy(setting.base)
        masks = _signed(setting, unet, step)
        with finetune(unet, layers=linears(unet), masks=masks) as run:
            yield _ours(unet, run)

    return method


def _signed(setting: Setting, unet: nn.Module, step: float = DENSE_RATE) -> dict[str, Mask]:
    layers, spec = linears(unet), setting.spec
    counts = explore(unet, range(SHORT), setting.loss, step=step, layers=layers)
    return pooled(counts, budget(unet, layers, spec.rank), seed=spec.mask_seed)


@contextmanager
def shares(setting: Setting) -> Iterator[Trained]:
    """SHiRA at random entries, as many in each layer as `signs-global` has there."""
    unet = copy.deepcopy(setting.base)
    weights = dict(unet.named_parameters())
    masks = {
        name: build(
            "rand",
            weights[name].detach(),
            density=mask.count / weights[name].numel(),
            seed=setting.spec.mask_seed,
            layer=name,
        )
        for name, mask in _signed(setting, unet).items()
    }
    with finetune(unet, layers=linears(unet), masks=masks) as run:
        yield _ours(unet, run)


def highest(scores: dict[str, Tensor], count: int) -> dict[str, Mask]:
    """Return masks of the `count` highest scores of all weights together."""
    flat = torch.cat([score.flatten() for score in scores.values()])
    taken = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    taken[flat.topk(count).indices] = True
    parts = taken.split([score.numel() for score in scores.values()])
    masks = {
        name: Mask(tuple(score.shape), part.nonzero()[:, 0].cpu())
        for (name, score), part in zip(scores.items(), parts, strict=True)
    }
    return {name: mask for name, mask in masks.items() if mask.count}


def by_gradient(setting: Setting, unet: nn.Module, layers: list[str]) -> dict[str, Tensor]:
    """Score entries by the size of their gradient."""
    sums = calibrate(unet, range(CALIBRATION), setting.loss, layers=layers)
    return {name: gradient.abs() for name, gradient in sums.items()}


def by_snip(setting: Setting, unet: nn.Module, layers: list[str]) -> dict[str, Tensor]:
    """Score entries by the size of weight times gradient."""
    weights = dict(unet.named_parameters())
    scores = by_gradient(setting, unet, layers)
    return {name: score * weights[name].detach().abs() for name, score in scores.items()}


def by_agreement(batches: int) -> Score:
    """Score entries by how much the gradients of batches agree: |sum| / sum of sizes, 0 to 1."""

    def score(setting: Setting, unet: nn.Module, layers: list[str]) -> dict[str, Tensor]:
        run = partial(calibrate, unet, range(batches), setting.loss, layers=layers)
        sums, sizes = run(), run(absolute=True)
        return {name: sums[name].abs() / sizes[name].clamp_min(TINY) for name in sums}

    return score


def by_movement(setting: Setting, unet: nn.Module, layers: list[str]) -> dict[str, Tensor]:
    """Score entries by how far a few steps of full fine-tuning move them."""
    trial = copy.deepcopy(unet)
    weights = {f"{name}.weight": trial.get_submodule(name).weight for name in layers}
    for weight in weights.values():
        weight.requires_grad_()
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    train_shortly(setting, trial, list(weights.values()), DENSE_RATE)
    return {name: (weight.detach() - before[name]).abs() for name, weight in weights.items()}


def train_shortly(
    setting: Setting, unet: nn.Module, parameters: Sequence[nn.Parameter], rate: float
) -> None:
    """Do a few ordinary steps, to see which entries move."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    for number in range(SHORT):
        setting.loss(unet, number).backward()
        optimizer.step()
        optimizer.zero_grad()


def low_rank(spread: bool = False, **options: Any) -> Method:
    """LoRA and its relatives, as PEFT has them."""

    @contextmanager
    def method(setting: Setting) -> Iterator[Trained]:
        unet, rank = copy.deepcopy(setting.base), setting.spec.rank
        layers = everything(unet) if spread else linears(unet)
        torch.manual_seed(setting.spec.mask_seed)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=layers, **options)
        adapted = get_peft_model(unet, config)
        parameters = [each for each in adapted.parameters() if each.requires_grad]

        def learned() -> Learned:
            return Learned(_merged(adapted, setting.base))

        yield Trained(adapted, parameters, _nothing, learned)

    return method


def _merged(adapted: Any, base: nn.Module) -> dict[str, Tensor]:
    adapted.merge_adapter()
    weights = dict(base.named_parameters())
    return {
        f"{name}.weight": layer.base_layer.weight.detach() - weights[f"{name}.weight"]
        for name, layer in adapted.base_model.model.named_modules()
        if hasattr(layer, "base_layer")
    }


@contextmanager
def full(setting: Setting) -> Iterator[Trained]:
    """Full fine-tuning of the same layers."""
    unet = copy.deepcopy(setting.base)
    weights = {f"{name}.weight": unet.get_submodule(name).weight for name in linears(unet)}
    for weight in weights.values():
        weight.requires_grad_()
    base = dict(setting.base.named_parameters())

    def learned() -> Learned:
        return Learned({name: weight.detach() - base[name] for name, weight in weights.items()})

    yield Trained(unet, list(weights.values()), _nothing, learned)


@contextmanager
def reselected(setting: Setting) -> Iterator[Trained]:
    """SHiRA whose entries are those that a first, shorter run at twice as many moved furthest."""
    twice = replace(setting, spec=replace(setting.spec, rank=2 * setting.spec.rank))
    with sparse("grad", batches=CALIBRATION)(twice) as first:
        train_shortly(setting, first.unet, first.parameters, setting.spec.rate)
        moved = {name: delta.abs() for name, delta in first.learned().deltas.items()}
    unet = copy.deepcopy(setting.base)
    masks = highest(moved, budget(unet, linears(unet), setting.spec.rank))
    with finetune(unet, layers=linears(unet), masks=masks) as run:
        yield _ours(unet, run)


def _nothing() -> None:
    pass


METHODS: dict[str, Method] = {
    "full": full,
    "lora": low_rank(),
    "dora": low_rank(use_dora=True),
    "struct": sparse("struct"),
    "rand": sparse("rand"),
    "wm": sparse("wm"),
    "grad": sparse("grad", batches=CALIBRATION),
    "snip": sparse("snip", batches=CALIBRATION),
    "wm-dora": sparse("wm", dora=True),
    # what else was tried
    "rslora": low_rank(use_rslora=True),
    "lora-all": low_rank(spread=True),
    "rand-all": sparse("rand", spread=True),
    "wm-all": sparse("wm", spread=True),
    "grad-all": sparse("grad", spread=True, batches=CALIBRATION),
    "grad-many": sparse("grad", batches=MANY),
    "grad-global": chosen(by_gradient, spread=False),
    "grad-global-all": chosen(by_gradient, spread=True),
    "snip-global-all": chosen(by_snip, spread=True),
    "moved-global": chosen(by_movement, spread=False),
    "moved-global-all": chosen(by_movement, spread=True),
    "moved": chosen(by_movement, spread=False, evenly=True),
    "signs-global": signs(),
    "signs-still": signs(0.0),
    "signs-tenth": signs(DENSE_RATE / 10),
    "signs-third": signs(DENSE_RATE / 3),
    "signs-thrice": signs(DENSE_RATE * 3),
    "shares-global": shares,
    "agree": chosen(by_agreement(MANY), spread=False, evenly=True),
    "agree-global": chosen(by_agreement(MANY), spread=False),
    "agree-global-all": chosen(by_agreement(MANY), spread=True),
    "agree-few-global": chosen(by_agreement(CALIBRATION), spread=False),
    "reselected": reselected,
}
PAPER = ("lora", "dora", "struct", "rand", "wm", "grad", "snip", "wm-dora")
TRIED = tuple(name for name in METHODS if name not in (*PAPER, "full"))

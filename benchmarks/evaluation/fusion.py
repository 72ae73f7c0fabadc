"""Adapters that are learned alone and used together: what is left of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import paths  # noqa: F401
import torch
from methods import Learned, Spec, dense
from painter import Painter
from scores import scores
from tasks import (
    BASE_STYLES,
    BATCH_OF_PICTURES,
    CONTENTS,
    STYLES,
    Asked,
    in_both,
    in_style,
    new_in,
)
from torch import Tensor
from world import ALL_STYLES, World

from shira_core import Adapter, Header, Mask, MemoryWeights, SparseDelta, mix

SUM, BALANCED = "sum", "balanced"
ALPHAS = {SUM: 1.0, "alpha 0.7": 0.7}  # ways to add up


@dataclass(frozen=True)
class Fusion:
    """Adapters of one method that are used together. apart: their masks have no common entry.

    mode: one of ALPHAS; "balanced", added up at alphas that make all equally large, with 1 for
    their geometric mean; or a mode of `shira_core.mix`.
    """

    parts: tuple[Spec, ...]
    mode: str = SUM
    apart: bool = False

    @property
    def key(self) -> str:
        first = self.parts[0]
        tasks = "+".join(part.task for part in self.parts)
        shards = "-apart" if self.apart else ""
        return f"{first.method}-r{first.rank}-s{first.seed}-{tasks}-{self.mode}{shards}"

    @property
    def styles(self) -> list[str]:
        return [part.task for part in self.parts if part.task in STYLES]

    @property
    def contents(self) -> list[str]:
        return [part.task for part in self.parts if part.task in CONTENTS]


def combined() -> list[tuple[str, ...]]:
    """Return the tasks that are used together: pairs and all of the styles, styles with objects."""
    pairs = list(combinations(STYLES, 2))
    return [*pairs, STYLES, *((style, CONTENTS[0]) for style in STYLES)]


def fusion(
    tasks: Sequence[str], spec_of: Callable[[str], Spec], mode: str = SUM, apart: bool = False
) -> Fusion:
    """Return the fusion of a method's adapters for these tasks."""
    specs = [spec_of(task) for task in tasks]
    if apart:
        specs = [replace(spec, shard=number) for number, spec in enumerate(specs)]
    return Fusion(tuple(specs), mode, apart)


def singly(task: str) -> dict[str, list[Asked]]:
    """Return what an adapter is asked for alone, that its fusions are compared with."""
    if task in CONTENTS:
        return {task: new_in(task, BASE_STYLES, first=100)}
    return {task: in_style(task, "test", BATCH_OF_PICTURES)}


def together(parts: Fusion) -> dict[str, list[Asked]]:
    """Return what a fusion is asked for: each part alone, and in one prompt."""
    wanted: dict[str, list[Asked]] = {}
    for spec in parts.parts:
        wanted |= singly(spec.task)
    if len(parts.styles) == 2:
        wanted["both"] = in_both(*parts.styles, BATCH_OF_PICTURES)
    for content in parts.contents:
        wanted["both"] = new_in(content, parts.styles, first=100)
    return wanted


def measure(world: World, painter: Painter, parts: Fusion, learned: Sequence[Learned]) -> dict:
    """Return the scores of a fusion, and how much its parts interfere."""
    painter.put(fused(world, parts, learned))
    found: dict[str, object] = {}
    for name, wanted in together(parts).items():
        given = scores(world, painter.draw(wanted), wanted)
        found[name] = given.record()
        if name == "both":
            shares = given.styles.mean(0)
            found["styles"] = {
                style: round(shares[ALL_STYLES.index(style)].item(), 4) for style in parts.styles
            }
    if len(learned) == 2:
        found["interference"] = interference(learned[0].deltas, learned[1].deltas)
    return found


def fused(
    world: World, parts: Fusion, learned: Sequence[Learned]
) -> list[tuple[dict[str, Tensor], float]]:
    """Return the deltas that are added to the base, with their alphas."""
    deltas = [each.deltas for each in learned]
    if parts.mode in ALPHAS:
        return [(each, ALPHAS[parts.mode]) for each in deltas]
    if parts.mode == BALANCED:
        sizes = [norm(each) for each in deltas]
        size = math.prod(sizes) ** (1 / len(sizes))
        return [(each, size / own) for each, own in zip(deltas, sizes, strict=True)]
    mixed = mix([(each.adapter or holding_all(each.deltas), 1.0) for each in learned], parts.mode)
    return [(dense(mixed, world.device), 1.0)]


def norm(deltas: dict[str, Tensor]) -> float:
    """Return the root of the sum of all squares."""
    return math.sqrt(sum(delta.double().square().sum().item() for delta in deltas.values()))


def holding_all(deltas: dict[str, Tensor]) -> Adapter:
    """Return dense deltas, such as a LoRA's, as an adapter that holds every entry."""
    weights = MemoryWeights(
        {
            name: SparseDelta(
                Mask(tuple(delta.shape), torch.arange(delta.numel())), delta.flatten().cpu()
            )
            for name, delta in deltas.items()
        }
    )
    return Adapter(Header(architecture="unknown"), weights)


def interference(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, float]:
    """Return the paper's figures for two adapters' dense deltas.

    awom: the root of the sum over weights of ||A^T B||^2; relative: that, over the same root of
    ||A||^2 ||B||^2; awor: share of zeros in all A^T B; overlap: common entries / entries of the
    smaller one. As `shira.compare`, for deltas of any kind.
    """
    names = sorted({*first, *second})
    product, norms, zeros, cells, common, counts = 0.0, 0.0, 0.0, 0, 0, [0, 0]
    for name in names:
        a, b = (_matrix(each, name, first, second) for each in (first, second))
        inside, other = (a != 0).float(), (b != 0).float()
        product += (a.T @ b).square().sum().item()
        norms += a.square().sum().item() * b.square().sum().item()
        zeros += (inside.T @ other == 0).sum().item()
        cells += a.shape[1] * b.shape[1]
        common += int((inside * other).sum())
        counts = [counts[0] + int(inside.sum()), counts[1] + int(other.sum())]
    return {
        "awom": product**0.5,
        "relative": (product / norms) ** 0.5 if norms else 0.0,
        "awor": zeros / cells,
        "overlap": common / max(1, min(counts)),
    }


def _matrix(
    deltas: dict[str, Tensor], name: str, first: dict[str, Tensor], second: dict[str, Tensor]
) -> Tensor:
    if name in deltas:
        return deltas[name].flatten(1).double()
    return torch.zeros_like((first | second)[name]).flatten(1).double()

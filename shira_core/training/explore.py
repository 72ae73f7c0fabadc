"""A trial run in which every weight moves, for masks of the entries that move furthest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InvalidValue
from .gradients import each_gradient
from .select import Chosen, Layers, choose

MOST = 127  # batches: a count of steps is an int8
EXPONENT = 0x7F800000  # of a float32's bits
LEAST = 1e-30  # below it all numbers are as far apart as there


def explore(
    module: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    step: float,
    layers: Layers | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Tensor]:
    """Return how many steps each entry ends away from where it began, int8, by weight name.

    In each batch every entry of the chosen weights goes `step` against the sign of its gradient.
    Entries that the batches keep pulling to one side get far, others walk to and fro: give the
    result to `masks.pooled`. About 50 batches and a tenth of the learning rate are enough; with
    steps that change nothing another choice comes out, a worse one (docs/evaluation.md). Weights in
    float16 and bfloat16, whose numbers lie further apart than small steps, are rounded at random,
    so that they get as far on average; torch's random state is not touched.

    loss_fn: (module, batch) -> loss. device: where the counts and a copy of the weights are kept,
    such as "cpu"; by default beside each weight. There is no optimizer state, and one dense
    gradient at a time lives. The module is as before afterwards, bit for bit, also after an error.
    Raises InvalidValue when there is no batch, or more than 127.
    """
    chosen = choose(module, layers)
    places = {each.name: device or each.weight.device for each in chosen}
    counts = {
        each.name: torch.zeros(each.weight.shape, dtype=torch.int8, device=places[each.name])
        for each in chosen
    }
    dice = {each.weight.device: _dice(each.weight.device) for each in chosen}
    bring = _bringing(chosen, device)

    def move(name: str, weight: Tensor, grad: Tensor) -> None:
        sign = grad.sign_().nan_to_num_(0.0)  # what overflowed says nothing
        if weight.dtype in (torch.float16, torch.bfloat16):
            _round_into(weight, weight.float().sub_(sign, alpha=step), dice[weight.device])
        else:
            weight.sub_(sign, alpha=step)
        counts[name].add_(bring(sign.to(torch.int8)))

    with ExitStack() as stack:
        for each in chosen:
            before = each.weight.detach().to(places[each.name], copy=True)
            stack.callback(each.weight.detach().copy_, before)
        if not each_gradient(module, chosen, _limited(batches), loss_fn, move):
            raise InvalidValue("a trial run needs at least one batch")
    return {name: count.abs_() for name, count in counts.items()}


def _bringing(
    chosen: Sequence[Chosen], device: torch.device | str | None
) -> Callable[[Tensor], Tensor]:
    """Return what brings signs to where they are counted; from a GPU, through pinned memory."""
    if device is None:
        return lambda signs: signs
    if torch.device(device).type != "cpu" or not any(each.weight.is_cuda for each in chosen):
        return lambda signs: signs.to(device)
    largest = max(each.weight.numel() for each in chosen)
    pinned = torch.empty(largest, dtype=torch.int8, pin_memory=True)
    return lambda signs: pinned[: signs.numel()].view(signs.shape).copy_(signs)


def _dice(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(0)


def _round_into(weight: Tensor, exact: Tensor, dice: torch.Generator) -> None:
    """Write float32 into a narrower dtype: up or down, the more likely the nearer, unbiased."""
    narrow = torch.finfo(weight.dtype)
    power = (exact.view(torch.int32) & EXPONENT).view(torch.float32)
    spacing = power.clamp_min_(max(narrow.tiny, LEAST)).mul_(narrow.eps)
    whole = exact.div_(spacing).floor()
    up = torch.empty_like(exact).uniform_(generator=dice) < exact - whole
    weight.copy_(whole.add_(up).mul_(spacing))


def _limited(batches: Iterable[Any]) -> Iterator[Any]:
    for number, batch in enumerate(batches):
        if number == MOST:
            raise InvalidValue(f"a trial run has at most {MOST} batches: give fewer")
        yield batch

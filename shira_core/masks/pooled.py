"""Masks of all weights together: a weight gets as many entries as it has of the highest scores."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InvalidValue
from ..mask import Mask
from .rand import permuted

DTYPES = (torch.uint8, torch.int8, torch.int16)
LEVELS = 1 << 15  # scores are below


def pooled(
    scores: Mapping[str, Tensor], count: int, *, seed: int = 0, shard: int = 0
) -> dict[str, Mask]:
    """Return masks of the `count` entries with the highest scores of all weights together.

    scores: whole numbers from 0 up, int8, uint8 or int16, of each weight's shape, such as
    `shira_core.training.explore` returns. A weight without one of the highest gets no mask.
    seed: draws among equal scores, alike on every platform and device. shard: k for the k-th slice
    of entries; slices of one count and seed never overlap. Positions lie on the scores' device.
    Raises InvalidValue.
    """
    start, stop = shard * count, (shard + 1) * count
    total = sum(score.numel() for score in scores.values())
    if count < 1 or shard < 0 or stop > total:
        raise InvalidValue(
            f"shard {shard} of {count} entries does not exist among {total}: lower the shard or "
            "the density"
        )
    flat = {name: _checked(name, score) for name, score in scores.items()}
    chosen = _top(flat, stop, seed)
    if start:
        for name, before in _top(flat, start, seed).items():
            chosen[name] &= ~before
    places = {name: flags.nonzero().view(-1) for name, flags in chosen.items()}
    return {name: Mask(tuple(scores[name].shape), at) for name, at in places.items() if len(at)}


def _checked(name: str, score: Tensor) -> Tensor:
    if score.dtype not in DTYPES or (score.numel() and int(score.min()) < 0):
        raise InvalidValue(f"the scores of {name} are not whole numbers from 0 up in int8 or int16")
    return score.detach().reshape(-1)


def _top(scores: Mapping[str, Tensor], count: int, seed: int) -> dict[str, Tensor]:
    """Return flags of the `count` highest scores; equal ones are drawn in an order of their own."""
    histogram = torch.zeros(LEVELS, dtype=torch.int64)
    for score in scores.values():
        histogram += score.bincount(minlength=LEVELS).cpu()
    reaching = histogram.flip(0).cumsum(0).flip(0)  # how many have at least this score
    least = int((reaching >= count).nonzero()[-1])
    left = count - int(reaching[least] - histogram[least])
    order = permuted(0, left, int(histogram[least]), f"{seed}\n{least}").astype("i8")
    drawn, begin = torch.from_numpy(order).sort().values, 0
    chosen = {}
    for name, score in scores.items():
        flags, equal = score > least, (score == least).nonzero().view(-1)
        first, last = torch.searchsorted(drawn, torch.tensor([begin, begin + len(equal)])).tolist()
        flags[equal[(drawn[first:last] - begin).to(equal.device)]] = True
        chosen[name], begin = flags, begin + len(equal)
    return chosen

"""How entries join that several adapters hold: a mode is one function and one line in MODES.

A mode takes the draft of one weight and the alphas by source, and returns float32 (entries,). It
adds up what `Draft.addends` gives: alpha * delta of each adapter whose alpha is not 0, in an order
that does not depend on that of the adapters. An entry that one adapter alone holds gets its
alpha * delta in every mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line lists the modes without loading torch
    from torch import Tensor

    from .plan import Draft


@dataclass(frozen=True)
class Mode:
    """A way to mix. about: what it does, for a person, in one line. join: the function."""

    about: str
    join: Callable[[Draft, Sequence[float]], Tensor]


def total(draft: Draft, alphas: Sequence[float]) -> Tensor:
    """Return sum(alpha * delta), as a stack applies it (SHiRA, section 3.2)."""
    return draft.total(alphas)


def ties(draft: Draft, alphas: Sequence[float]) -> Tensor:
    """Return the mean of those alpha * delta that have the elected sign.

    TIES-Merging (Yadav et al. 2023, arXiv 2306.01708, algorithm 1). Trimming each delta to its top
    entries is done: a sparse adapter has no others. The elected sign is that of sum(alpha * delta),
    so the side with more mass wins; where both weigh the same nobody does, and the entry gets 0. A
    delta of 0 has no sign and does not count.
    """
    addends = list(draft.addends(alphas))
    elected = draft.add(addends).sign_()
    votes = [
        (addend.sign().eq_(elected if places is None else elected.index_select(0, places)), places)
        for addend, places in addends
    ]
    pairs = zip(addends, votes, strict=True)
    agreeing = draft.add((addend.mul_(vote), places) for (addend, places), (vote, _) in pairs)
    return agreeing.div_(draft.add(votes).clamp_(min=1))


def mean(draft: Draft, alphas: Sequence[float]) -> Tensor:
    """Return sum(alpha * delta) / number of adapters that hold the entry."""
    addends = list(draft.addends(alphas))
    holders = draft.add((addend.new_ones(len(addend)), places) for addend, places in addends)
    return draft.add(addends).div_(holders.clamp_(min=1))


MODES: Mapping[str, Mode] = {
    "sum": Mode("all are added up, as when they are applied together (the paper)", total),
    "ties": Mode("the sign with more mass is elected, those that have it are averaged", ties),
    "mean": Mode("the sum is divided by the number of adapters that hold the entry", mean),
}

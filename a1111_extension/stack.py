"""From the tags of a prompt to adapters with alphas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shira_core.alpha import Alpha
from shira_core.errors import InvalidValue
from shira_core.names import component
from shira_core.plan import Entry

from . import tag
from .paths import LIBRARY, find


@dataclass(frozen=True)
class Timed:
    """An entry of a stack that is on from `start` to `stop` (0..1) of a sampling run.

    Text encoders have done their work before the run: there it is always on.
    """

    entry: Entry
    start: float = 0.0
    stop: float = 1.0

    @property
    def whole(self) -> bool:
        """Whether it is on in the whole run."""
        return self.start == 0.0 and self.stop == 1.0


Stack = Sequence[Timed]


def of_tags(parameters: Iterable[Any]) -> Stack:
    """Open the adapters of a prompt's tags; a name in two tags is in the stack twice.

    parameters: what the WebUI has split each tag into. Raises InvalidValue, FileInvalid.
    """
    tags = [tag.read(each.positional, each.named) for each in parameters]
    return tuple(Timed(_entry(each), each.start, each.stop) for each in tags)


def same(first: Stack, second: Stack) -> bool:
    """Tell whether two stacks have the same adapters, alphas and times."""
    return len(first) == len(second) and all(
        a.entry.adapter is b.entry.adapter and _how(a) == _how(b)
        for a, b in zip(first, second, strict=True)
    )


def _how(timed: Timed) -> tuple[Alpha, float, float]:
    return timed.entry.alpha, timed.start, timed.stop


def _entry(given: tag.Tag) -> Entry:
    """Open the file of a tag; raises FileInvalid, and InvalidValue if it changes the VAE."""
    entry = replace(given.row, name=find(given.row.name)).entry(LIBRARY)
    if any(component(name) == "vae" for name in entry.adapter.weights):
        raise InvalidValue(
            f"{given.row.name} changes the VAE, which a WebUI keeps apart: bake it into a "
            "checkpoint with `shira bake`"
        )
    return entry

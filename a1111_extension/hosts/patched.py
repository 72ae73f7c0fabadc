"""What Forge and reForge have in common: a stack is weight patches on clones of model patchers.

Both keep a checkpoint's patchers in `forge_objects`, and a copy in `forge_objects_after_applying_
lora` that they return to before each sampling run. A stack is put into both when all networks are
activated; their loaders merge patches into weights, and give the weights back, by themselves.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from modules import shared

from shira_core.errors import InvalidValue
from shira_core.keymaps import comfy
from shira_core.plan import Entry
from shira_core.share import Share

from ..places import plain
from ..stack import Stack, same

_PARTS = ("unet", "clip")


Shares = Mapping[str, Share]


@dataclass(frozen=True)
class Dressed:
    """A patcher with a stack: the one that it was made of, and what it wears."""

    source: Any
    made: Any
    stack: Stack


class Patched(ABC):
    """A host whose models are model patchers; `name` as people know it."""

    name: str

    def __init__(self) -> None:
        self._model: Callable[[], Any] = lambda: None

    @abstractmethod
    def install(self) -> None:
        """Ask the host for what it is to do for us."""

    def wear(self, p: Any, stack: Stack) -> None:
        if not stack:
            self.take_off()
            return
        self._refuse_parts(stack)
        model = shared.sd_model
        dressed = [
            (objects, part, self._dressed(part, getattr(objects, part), stack))
            for objects in _objects(model)
            for part in _PARTS
        ]
        self._model = weakref.ref(model)
        for objects, part, patcher in dressed:
            setattr(objects, part, patcher)

    def take_off(self) -> None:
        model = self._model()
        self._model = lambda: None
        if model is not None:
            for objects in _objects(model):
                for part in _PARTS:
                    setattr(objects, part, self._source(getattr(objects, part)))

    @abstractmethod
    def _without(self, patcher: Any) -> Any:
        """Return a clone without our patches; the patcher itself if it has none."""

    @abstractmethod
    def _put(self, patcher: Any, shares: Shares, stack: Stack) -> None:
        """Add patches to a clone."""

    def _source(self, patcher: Any) -> Any:
        """Return what a patcher was before it wore a stack."""
        known: Dressed | None = getattr(patcher, "shira", None)
        if known is not None and known.made is patcher:
            return known.source
        return self._without(patcher)

    def _dressed(self, part: str, patcher: Any, stack: Stack) -> Any:
        """Return a clone that wears the stack, the same one as long as nothing has changed.

        Raises WeightMissing, ShapeMismatch.
        """
        source = self._source(patcher)
        known: Dressed | None = getattr(source, "shira", None)
        if known is not None and known.source is source and same(known.stack, stack):
            return known.made
        shares = _shares(part, source, stack)
        made = source.clone() if shares else source
        if shares:
            self._put(made, shares, stack)
            source.shira = made.shira = Dressed(source, made, stack)
        return made

    def _refuse_parts(self, stack: Stack) -> None:
        for each in stack:
            if not each.whole:
                raise InvalidValue(
                    f"{each.entry.adapter.path} has a start or stop: {self.name} merges weights "
                    "before the run and cannot switch them in it; leave start and stop out"
                )


def _objects(model: Any) -> list[Any]:
    """Return the places where a checkpoint's patchers are kept for what is drawn next."""
    found = [model.forge_objects, model.forge_objects_after_applying_lora]
    return [each for each in found if each is not None]


def _shares(part: str, patcher: Any, stack: Stack) -> Shares:
    """Return the share of each weight that changes at all, by the host's names."""
    held = patcher.model if part == "unet" else patcher.cond_stage_model
    names = {plain(key): key for key, _ in held.named_parameters()}
    shapes = {short: tuple(held.get_parameter(key).shape) for short, key in names.items()}
    found: dict[str, tuple[str, list[Entry]]] = {}
    for entry in (each.entry for each in stack):
        for short, name, own in _part_of(part, entry, shapes):
            found.setdefault(names[short], (name, []))[1].append(own)
    shares = {key: Share(name, tuple(entries)) for key, (name, entries) in found.items()}
    return {key: share for key, share in shares.items() if any(share.alphas)}


def _part_of(
    part: str, entry: Entry, shapes: Mapping[str, tuple[int, ...]]
) -> Sequence[tuple[str, str, Entry]]:
    """Return, for each weight of a part, the host's name, the adapter's, and the entry for it."""
    if part == "unet":
        return [(*each, entry) for each in comfy.denoiser(entry.adapter, shapes).items()]
    own = replace(entry, adapter=comfy.encoders(entry.adapter, shapes))
    return [(name, name, own) for name in own.adapter.weights]

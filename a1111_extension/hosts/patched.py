"""What Forge and reForge have in common: a stack is weight patches on clones of model patchers.

Both keep a checkpoint's patchers in `forge_objects`, and a copy in `forge_objects_after_applying_
lora` that they return to before each sampling run. A stack is put into both when all networks are
activated; their loaders merge patches into weights, and give the weights back, by themselves.
Where an adapter is on for a part of the run only, all of the denoiser's are written in place
instead, from the first step of a run to its end: so each weight gets one sum, rounded once.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from modules import script_callbacks, sd_samplers_common, shared

from shira_core.adapter import Adapter
from shira_core.keymaps import comfy
from shira_core.plan import Entry
from shira_core.share import Share
from shira_core.translate import Source, translated

from .. import problems
from ..patcher import Patcher
from ..places import plain
from ..stack import Stack, same
from ..wrapping import wrap
from .merged import WrittenOnMerged, check_editable

_PARTS = ("unet", "clip")


Shares = Mapping[str, Share]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Dressed:
    """A patcher with a stack: the one that it was made of, and what it wears."""

    source: Any
    made: Any
    stack: Stack


class Patched(ABC):
    """A host whose models are model patchers.

    `_timed` is the denoiser's stack, by the host's names, where it is written in place.
    """

    def __init__(self) -> None:
        self._model: Callable[[], Any] = lambda: None
        self._patcher = Patcher(WrittenOnMerged)
        self._timed: Stack = ()

    def install(self) -> None:
        script_callbacks.on_cfg_denoiser(self._step)
        wrap(sd_samplers_common.Sampler, "launch_sampling", self._giving_back)

    def wear(self, p: Any, stack: Stack) -> None:
        if not stack:
            self.take_off()
            return
        self._patcher.take_off()
        model = shared.sd_model
        timed = () if all(each.whole for each in stack) else _of_denoiser(model, stack)
        wanted = {"unet": () if timed else stack, "clip": stack}
        dressed = [
            (objects, part, self._dressed(part, getattr(objects, part), wanted[part]))
            for objects in _objects(model)
            for part in _PARTS
        ]
        self._model, self._timed = weakref.ref(model), timed
        for objects, part, patcher in dressed:
            setattr(objects, part, patcher)

    def take_off(self) -> None:
        self._patcher.take_off()
        model = self._model()
        self._model, self._timed = (lambda: None), ()
        if model is not None:
            for objects in _objects(model):
                for part in _PARTS:
                    setattr(objects, part, self._source(getattr(objects, part)))

    @abstractmethod
    def _without(self, patcher: Any) -> Any:
        """Return a clone without our patches; the patcher itself if it has none."""

    @abstractmethod
    def _put(self, patcher: Any, shares: Shares) -> None:
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
            self._put(made, shares)
            source.shira = made.shira = Dressed(source, made, stack)
        return made

    def _step(self, params: Any) -> None:
        """Before each evaluation of the denoiser: write what is on now, where that changes."""
        model, denoiser = self._model(), params.denoiser
        if model is None or not self._timed:
            return
        try:
            if not self._patcher.stack:  # the host has loaded the denoiser, and merges no more
                self._patcher.wear(model.forge_objects.unet.model, self._timed)
            self._patcher.at(denoiser.step / denoiser.total_steps)
        except Exception as error:  # the WebUI would only write it into its log
            self._timed = ()
            self._patcher.take_off()
            problems.note(denoiser.p, error)

    def _giving_back(self, launch: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a sampling run: the host's loader gets the weights that it has left there."""

        def launch_sampling(*args: Any, **given: Any) -> Any:
            try:
                return launch(*args, **given)
            finally:
                self._patcher.take_off()

        return launch_sampling


def holder(patcher: Any) -> Any:
    """Return what holds the patches: a text encoder has a patcher of its own."""
    return getattr(patcher, "patcher", patcher)


def _objects(model: Any) -> list[Any]:
    """Return the places where a checkpoint's patchers are kept for what is drawn next."""
    found = [model.forge_objects, model.forge_objects_after_applying_lora]
    return [each for each in found if each is not None]


def _of_denoiser(model: Any, stack: Stack) -> Stack:
    """Return the denoiser's part of a stack by the host's names, if it can be written in place.

    Raises WeightMissing, ShapeMismatch, InvalidValue.
    """
    denoiser = model.forge_objects.unet.model
    shapes = {plain(key): tuple(weight.shape) for key, weight in denoiser.named_parameters()}
    own = tuple(replace(each, entry=_part_of("unet", each.entry, shapes)) for each in stack)
    check_editable(denoiser, own)
    return own


def _shares(part: str, patcher: Any, stack: Stack) -> Shares:
    """Return the share of each weight that changes at all, by the host's names."""
    held = patcher.model if part == "unet" else patcher.cond_stage_model
    names = {plain(key): key for key, _ in held.named_parameters()}
    shapes = {short: tuple(held.get_parameter(key).shape) for short, key in names.items()}
    found: dict[str, list[Entry]] = {}
    for entry in (_part_of(part, each.entry, shapes) for each in stack):
        for short in entry.adapter.weights:
            found.setdefault(short, []).append(entry)
    shares = {names[short]: Share(short, tuple(entries)) for short, entries in found.items()}
    return {key: share for key, share in shares.items() if any(share.alphas)}


def _part_of(part: str, entry: Entry, shapes: Shapes) -> Entry:
    """Return an entry with the weights of one part alone, by the host's names."""
    own = _denoiser if part == "unet" else comfy.encoders
    return replace(entry, adapter=own(entry.adapter, shapes))


def _denoiser(adapter: Adapter, shapes: Shapes) -> Adapter:
    """Return the denoiser's part of an adapter under the host's names.

    Raises WeightMissing, ShapeMismatch.
    """
    names = comfy.denoiser(adapter, shapes)  # which refuses what has no place
    sources = {short: Source(name) for short, name in names.items()}
    return translated(adapter, sources, apart=("",))

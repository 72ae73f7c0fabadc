"""Write a stack into a model in place, for the time of one sampling run.

A weight patch makes the host copy, compute and write whole weights, seconds for a large model. A
stack changes 1-2 % of the entries, so that writing those takes a fraction of a second. The patches
of `patch` always stay the truth, which the host sees, saves, merges and orders; for a sampling run
they are set aside while the host loads the model, the entries are written, and in the end the
originals are written back. Nobody outside of the run ever sees changed weights.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.utils
import torch
from torch import Tensor

from shira_core import entries as cells
from shira_core.drafts import Drafts
from shira_core.errors import InvalidValue
from shira_core.plan import Entry, Plan, alphas
from shira_core.share import Share

from .patch import alone, ours

KEY = "shira"
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
WRAPPERS = comfy.patcher_extension.WrappersMP


@dataclass(frozen=True)
class Window:
    """Entries that are on for a part of the run.

    names: the name in the adapter by the host's name. start, end: 0..1 of the run.
    """

    entry: Entry
    names: Mapping[str, str]
    start: float
    end: float


@dataclass(frozen=True)
class Record:
    """What we remember of a patcher.

    before: which weights it has without our patches. own: with them, unless others came later.
    """

    before: uuid.UUID
    own: uuid.UUID
    windows: tuple[Window, ...] = ()


def install(patcher: Any, record: Record) -> None:
    """Have a patcher's sampling runs write its stack in place."""
    patcher.set_attachments(KEY, record)
    wrappers = {WRAPPERS.OUTER_SAMPLE: _sample, WRAPPERS.PREPARE_SAMPLING: _prepare}
    if record.windows:
        wrappers[WRAPPERS.PREDICT_NOISE] = _predict
    for kind, wrapper in wrappers.items():
        patcher.remove_wrappers_with_key(kind, KEY)
        patcher.add_wrapper_with_key(kind, KEY, wrapper)


def record_of(patcher: Any) -> Record | None:
    """Return what we remember of a patcher, if anything."""
    found: Record | None = patcher.get_attachment(KEY)
    return found


def without_ours(patcher: Any) -> uuid.UUID:
    """Return what names the weights of a patcher without our patches, as the host does."""
    record: Record | None = record_of(patcher)
    now: uuid.UUID = patcher.patches_uuid
    if record is None:
        return now
    return record.before if now == record.own else uuid.uuid5(now, KEY)


def why_patches(patcher: Any) -> str:
    """Return why a patcher's stack cannot be written in place; "" if it can."""
    if type(patcher) is not comfy.model_patcher.ModelPatcher:
        return f"the model is kept by {type(patcher).__name__}"
    if patcher.hook_patches:
        return "hooks change weights during the run"
    state = comfy.model_management.vram_state
    little = (comfy.model_management.VRAMState.LOW_VRAM, comfy.model_management.VRAMState.NO_VRAM)
    if _in_part(patcher) or state in little:
        return "memory is low, and the model is not loaded as a whole"
    if any(alone(patcher.patches[key]) is None for key in ours(patcher.patches)):
        return "a LoRA or another adapter changes the same weights"
    return _unfit(patcher, ours(patcher.patches))


def _in_part(patcher: Any) -> bool:
    """Tell whether a model is loaded in part; hosts note it at the model or at the patcher."""
    places = (patcher.model, getattr(patcher, "_memory_measurements", None))
    return any(getattr(place, "model_lowvram", False) for place in places)


def _unfit(patcher: Any, keys: Any) -> str:
    """Return why some weights cannot be edited in place; "" if they can."""
    for key in keys:
        weight, setter, converter = comfy.model_patcher.get_key_weight(patcher.model, key)
        if (
            setter
            or converter
            or weight.dtype not in FLOATS
            or key in patcher.weight_wrapper_patches
        ):
            return f"the model is quantised or casts its weights itself ({weight.dtype})"
        if weight.is_meta or not cells.is_dense(weight):
            return "the model keeps its weights elsewhere"
    return ""


class Run:
    """One sampling run of one patcher: what is written, and what was there before."""

    def __init__(self, patcher: Any) -> None:
        self.patcher = patcher
        record = record_of(patcher)
        self._windows = record.windows if record else ()
        reason = why_patches(patcher)
        self._static = {} if reason else _static(patcher)
        self._stack = self._entries()
        self._written: list[tuple[str, Plan]] = []
        self._active: tuple[bool, ...] = (False,) * len(self._windows)
        if self._windows:
            _check_windows(patcher, self._windows)
        if reason or self._static:
            way = f"by weight patches: {reason}" if reason else "in place"
            logging.info("SHiRA: applied %s", way)

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Let the host load the model without the patches that will be written in place."""
        patcher, patches, name = self.patcher, self.patcher.patches, self.patcher.patches_uuid
        if self._static:
            patcher.patches = {k: v for k, v in patches.items() if k not in self._static}
            patcher.patches_uuid = without_ours(patcher)
        try:
            yield
        finally:
            patcher.patches, patcher.patches_uuid = patches, name

    def write(self) -> None:
        """Write all entries; those of windows are off at first."""
        names = self._names()
        for key in names:
            cells.check_layout(key, self._weight(key))
        adapters = [entry.adapter for entry in self._stack]
        devices = {name: self._weight(key).device for key, name in names.items()}
        drafts = _DRAFTS.setdefault(self.patcher.model, Drafts()).of(adapters, devices)
        for key, name in names.items():
            plan = drafts[name].bind(self._weight(key))
            self._written.append((key, plan))
            self._put(key, plan, plan.values(self._alphas(key, plan.name)))

    def at(self, sigma: float) -> None:
        """Switch windows on and off for the step at this noise level."""
        sampling = self.patcher.get_model_object("model_sampling")
        active = tuple(_is_on(window, sampling, sigma) for window in self._windows)
        if active == self._active:
            return
        changed = {
            key
            for window, before, now in zip(self._windows, self._active, active, strict=True)
            if before != now
            for key in window.names
        }
        self._active = active
        for key, plan in self._written:
            if key in changed:
                self._put(key, plan, plan.values(self._alphas(key, plan.name)))

    def close(self) -> None:
        """Write the originals back."""
        while self._written:
            key, plan = self._written.pop()
            self._put(key, plan, plan.original)

    def _entries(self) -> tuple[Entry, ...]:
        """Return all entries of all weights, each once."""
        static = [entry for share in self._static.values() for entry in share.entries]
        every = (*static, *(window.entry for window in self._windows))
        return tuple({id(entry): entry for entry in every}.values())

    def _names(self) -> dict[str, str]:
        """Return the name in the adapters by the host's name."""
        found = {key: share.name for key, share in self._static.items()}
        for window in self._windows:
            found |= window.names
        return found

    def _alphas(self, key: str, name: str) -> list[float]:
        """Return the alpha of every entry for one weight; 0 for those that are off there."""
        share = self._static.get(key)
        on = {id(entry) for entry in share.entries} if share else set()
        states = zip(self._windows, self._active, strict=True)
        on |= {id(window.entry) for window, active in states if active}
        pairs = zip(self._stack, alphas(self._stack, name), strict=True)
        return [alpha if id(entry) in on else 0.0 for entry, alpha in pairs]

    def _weight(self, key: str) -> Tensor:
        weight: Tensor = comfy.utils.get_attr(self.patcher.model, key)
        return weight

    def _put(self, key: str, plan: Plan, values: Tensor) -> None:
        weight = self._weight(key)
        cells.write(weight, plan.positions.to(weight.device), values.to(weight.device))


_RUNS: WeakKeyDictionary[Any, Run] = WeakKeyDictionary()
_DRAFTS: WeakKeyDictionary[Any, Drafts] = WeakKeyDictionary()


def _static(patcher: Any) -> dict[str, Share]:
    found = {key: alone(patcher.patches[key]) for key in ours(patcher.patches)}
    return {key: share for key, share in found.items() if share}


def _is_on(window: Window, sampling: Any, sigma: float) -> bool:
    start, end = (sampling.percent_to_sigma(share) for share in (window.start, window.end))
    return bool(end < sigma <= start)


def _check_windows(patcher: Any, windows: tuple[Window, ...]) -> None:
    """Raise InvalidValue where entries cannot be switched during a run."""
    why = _unfit(patcher, {key for window in windows for key in window.names})
    if patcher.hook_patches:
        why = "hooks change weights during the run"
    if why:
        raise InvalidValue(
            f"SHiRA Schedule cannot switch this model's weights ({why}): use SHiRA Hook with "
            "ComfyUI's hook keyframes"
        )


def _sample(executor: Callable[..., Any], *args: Any, **given: Any) -> Any:
    """Wrap a sampling run: what is written in place goes back at its end, whatever happens."""
    patcher = executor.class_obj.model_patcher  # type: ignore[attr-defined]
    outer = _RUNS.pop(patcher.model, None)
    if outer:  # a run inside of a run starts from the originals, too
        outer.close()
    run = _RUNS[patcher.model] = Run(patcher)
    try:
        return executor(*args, **given)
    finally:
        del _RUNS[patcher.model]
        run.close()
        if outer:
            _RUNS[patcher.model] = outer
            outer.write()


def _prepare(executor: Callable[..., Any], patcher: Any, *args: Any, **given: Any) -> Any:
    """Wrap the loading for a run."""
    run = _RUNS.get(patcher.model)
    if run is None or run.patcher is not patcher:
        return executor(patcher, *args, **given)
    with run.set_aside():
        loaded = executor(patcher, *args, **given)
    run.write()
    return loaded


def _predict(executor: Callable[..., Any], x: Any, timestep: Tensor, *args: Any) -> Any:
    """Wrap one step."""
    run = _RUNS.get(executor.class_obj.model_patcher.model)  # type: ignore[attr-defined]
    if run is not None:
        run.at(float(timestep.max()))
    return executor(x, timestep, *args)

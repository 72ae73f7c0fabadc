"""Write a stack into a model in place, and give every weight back bit for bit.

What an entry held is saved once, and written back at the end of each picture. The copies of a
weight that AUTOMATIC1111's Lora keeps get the same values as the weight: whatever is switched on
first, the model holds base + adapters + Lora, and the base again when both are gone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shira_core import entries as cells
from shira_core.check import check_fit
from shira_core.drafts import Drafts
from shira_core.errors import InvalidValue
from shira_core.names import component
from shira_core.plan import Draft, Plan, alphas

from .places import Place, places
from .stack import Stack, same


@dataclass
class Written:
    """What is written into one weight. wide: the plan of the 16-bit weight beside one of 8 bits."""

    place: Place
    plan: Plan
    wide: Plan | None

    def write(self, factors: Sequence[float]) -> None:
        """Write the values for these alphas, by index in the stack; raises InvalidValue."""
        if self.wide is None:
            self._put(self.plan.values(factors), None)
        else:
            values = self.wide.values(factors)
            self._put(_narrow(self.plan, values, factors), values)

    def back(self) -> None:
        """Write the originals."""
        self._put(self.plan.original, self.wide.original if self.wide else None)

    def _put(self, values: Tensor, wide: Tensor | None) -> None:
        place, backup = self.place, self.place.backup
        if backup is not None:
            _write(backup, self.plan, values)
        place.without_lora()
        _write(place.weight, self.plan, values)
        if wide is not None and place.wide is not None:
            _write(place.wide, self.plan, wide)


def _narrow(plan: Plan, values: Tensor, factors: Sequence[float]) -> Tensor:
    """Return 16-bit values as the weight holds them; its own where nothing is added."""
    if not any(factors[part.source] for part in plan.parts):
        return plan.original
    dtype = plan.original.dtype
    limit = torch.finfo(dtype).max
    if not cells.within(values, limit):
        raise InvalidValue(
            f"{plan.name} leaves the range of {dtype} (its largest number is {limit:.4g}): lower "
            "the alphas"
        )
    return values.to(plan.original.device, dtype)


def _write(tensor: Tensor, plan: Draft, values: Tensor) -> None:
    values = values.to(tensor.device, tensor.dtype)
    cells.write(tensor, plan.positions.to(tensor.device), values, counted=False)


class Patcher:
    """The stack that one model wears now, if any. written: what writes into one of its weights."""

    def __init__(self, written: type[Written] = Written) -> None:
        self._bind = written
        self._drafts = Drafts()
        self._model: Callable[[], nn.Module | None] = lambda: None
        self._stack: Stack = ()
        self._written: list[Written] = []
        self._on: tuple[bool, ...] = ()

    @property
    def stack(self) -> Stack:
        """What the model wears."""
        return self._stack

    def wear(self, model: nn.Module, stack: Stack) -> None:
        """Have a model wear this stack and nothing else, all of it or nothing.

        Raises WeightMissing, ShapeMismatch, InvalidValue, FileInvalid; then no model wears any.
        """
        if not (self._model() is model and same(stack, self._stack)):
            self.take_off()
            if stack:
                self._put_on(model, stack)
        self.at(0.0)

    def take_off(self) -> None:
        """Write all originals back, into the model that wears the stack, wherever that is now."""
        for each in self._written:
            if not each.place.weight.is_meta:  # a model that was thrown away
                each.back()
        self._forget()

    def leave(self, model: nn.Module) -> None:
        """Take the stack off if it is this model that wears it: it gets other weights."""
        if self._model() is model:
            self.take_off()

    def at(self, share: float) -> None:
        """Switch entries on and off for what follows after this share (0..1) of a sampling run."""
        on = tuple(each.start <= share < each.stop for each in self._stack)
        if on == self._on:
            return
        changed = [a != b for a, b in zip(on, self._on, strict=True)]
        self._on = on
        for each in self._written:
            name = each.plan.name
            if component(name) == "unet" and any(changed[part.source] for part in each.plan.parts):
                each.write(self._factors(name))

    def _put_on(self, model: nn.Module, stack: Stack) -> None:
        found = places(model)
        shapes = {name: place.weight.shape for name, place in found.items()}
        adapters = [each.entry.adapter for each in stack]
        for adapter in adapters:
            check_fit(adapter, shapes)
        names = dict.fromkeys(name for adapter in adapters for name in adapter.weights)
        for name in names:
            cells.check_layout(name, found[name].weight)
        drafts = self._drafts.of(adapters, {name: found[name].weight.device for name in names})
        self._model, self._stack = weakref.ref(model), tuple(stack)
        self._on = tuple(each.start == 0.0 for each in stack)
        try:
            for name, draft in drafts.items():  # read and written at once, from the same cache
                self._written.append(self._bind(*_bound(draft, found[name])))
                self._written[-1].write(self._factors(name))
        except BaseException:
            self.take_off()
            raise

    def _factors(self, name: str) -> list[float]:
        """Return the alphas of one weight; 0 in the denoiser for what is off now."""
        numbers = alphas([each.entry for each in self._stack], name)
        if component(name) != "unet":
            return numbers
        return [number if on else 0.0 for number, on in zip(numbers, self._on, strict=True)]

    def _forget(self) -> None:
        self._model = lambda: None
        self._stack, self._written, self._on = (), [], ()


def _bound(draft: Draft, place: Place) -> tuple[Place, Plan, Plan | None]:
    """Return what is to be written into a weight, with what it holds without Lora."""
    backup = place.backup
    plan = _plan(draft, place.weight if backup is None else backup)
    return place, plan, None if place.wide is None else _plan(draft, place.wide)


def _plan(draft: Draft, tensor: Tensor) -> Plan:
    own = cells.read(tensor, draft.positions.to(tensor.device))
    return draft.with_original(own.to(draft.positions.device))

"""Apply a stack of adapters to a model in place, change it, and give the model back bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

import torch
from torch import Tensor, nn

from . import entries
from .alpha import Alpha, as_alpha
from .check import check_fit
from .errors import InvalidValue, OutOfMemory
from .plan import Draft, Entries, Entry, Plan, alphas, as_stack, draft, read, same

Target = nn.Module | Mapping[str, Tensor]


def apply(target: Target, stack: Entries) -> Stack:
    """Add adapters to a model: W' = W + sum(alpha_i * delta_i), in place, all or nothing.

    target: a module, or tensors by checkpoint name; float64 to float8, any device and layout.
    stack: (adapter, alpha) pairs; alpha is a number or an Alpha.
    Raises WeightMissing, ShapeMismatch, InvalidValue, FileInvalid; then nothing was changed.
    """
    applied = Stack(target)
    applied.set(stack)
    return applied


class Stack:
    """Handle of the adapters that are applied to one target; the base comes back with `remove()`.

    While it lives, the target's weights may be moved to another device but not cast, and the
    trained entries belong to the stack: one target has one stack.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._entries: tuple[Entry, ...] = ()
        self._plans: dict[str, Plan] = {}

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The adapters that are applied, with their alphas."""
        return self._entries

    def set_alpha(self, index: int, alpha: Alpha | float) -> None:
        """Change the alpha of one adapter; on any error everything is as before."""
        if not 0 <= index < len(self._entries):
            raise InvalidValue(f"there is no adapter {index}: the stack has {len(self._entries)}")
        changed = list(self._entries)
        changed[index] = replace(changed[index], alpha=as_alpha(alpha))
        self._move(tuple(changed), self._plans, _tensors(self._target))

    def set(self, stack: Entries) -> None:
        """Replace all adapters and alphas; on any error everything is as before."""
        wanted = as_stack(stack)
        same = len(wanted) == len(self._entries) and all(
            new.adapter is old.adapter for new, old in zip(wanted, self._entries, strict=True)
        )
        tensors = _tensors(self._target)
        self._move(wanted, self._plans if same else self._drafts(wanted, tensors), tensors)

    def remove(self) -> None:
        """Write the originals back, bit for bit. A second call does nothing."""
        self._move((), {}, _tensors(self._target))

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def _drafts(self, wanted: Sequence[Entry], tensors: Mapping[str, Tensor]) -> dict[str, Draft]:
        """Check all adapters against the target, read them, and return the drafts by weight."""
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        for entry in wanted:
            check_fit(entry.adapter, shapes)
        names = dict.fromkeys(name for entry in wanted for name in entry.adapter.weights)
        _check_tensors({name: tensors[name] for name in names})
        return {name: draft(name, self._addends(wanted, name, tensors[name])) for name in names}

    def _addends(
        self, wanted: Sequence[Entry], name: str, weight: Tensor
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """Return what each adapter adds to one weight; the files of those applied stay closed."""
        held = self._plans.get(name)
        found = {}
        for index, entry in enumerate(wanted):
            if name in entry.adapter.weights:
                now = [i for i, each in enumerate(self._entries) if each.adapter is entry.adapter]
                known = held.addend(now[0]) if held and now else None
                found[index] = known or read(entry.adapter, name, weight.device)
        return found

    def _move(
        self,
        wanted: tuple[Entry, ...],
        plans: Mapping[str, Draft],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """Bring every weight from its plan to the wanted one, or all of them back."""
        changes = [
            _Change(
                weight=_weight(tensors, name, self._plans.get(name)),
                old=self._plans.get(name),
                new=plans.get(name),
                alphas_before=alphas(self._entries, name),
                alphas=alphas(wanted, name),
            )
            for name in dict.fromkeys((*self._plans, *plans))
        ]
        try:
            for change in changes:
                change.do()
        except BaseException as error:
            for change in changes:
                change.undo()
            if isinstance(error, torch.cuda.OutOfMemoryError):
                raise OutOfMemory(
                    "the GPU has too little free memory to apply the adapters: free some (smaller "
                    "model, lower resolution) or apply fewer; nothing was changed"
                ) from None
            raise
        self._plans = {c.new.name: c.new for c in changes if isinstance(c.new, Plan)}
        self._entries = wanted


@dataclass
class _Change:
    """One weight on its way from an old plan to a new one; either may be missing."""

    weight: Tensor
    old: Plan | None
    new: Draft | None
    alphas_before: Sequence[float]
    alphas: Sequence[float]

    def do(self) -> None:
        """Take the old plan back and carry the new one out."""
        if self.old is not self.new:
            self._rebind()
        elif self.alphas == self.alphas_before:
            return
        if isinstance(self.new, Plan):
            self._write(self.new, self.new.values(self.alphas))

    def _rebind(self) -> None:
        """Exchange the plans.

        Two WM adapters of one base have one mask: the originals are known then, and the old
        values need not be taken back before they are overwritten.
        """
        if self.old and self.new and same(self.old.positions, self.new.positions):
            self.new = self.new.with_original(self.old.original)
            return
        if self.old:
            self._write(self.old, self.old.original)
        if self.new:
            self.new = self.new.bind(self.weight)

    def undo(self) -> None:
        """Make the weight what it was, however far `do` came."""
        if isinstance(self.new, Plan) and self.new is not self.old:
            self._write(self.new, self.new.original)
        if self.old:
            self._write(self.old, self.old.values(self.alphas_before))

    def _write(self, plan: Draft, values: Tensor) -> None:
        device = self.weight.device
        entries.write(self.weight, plan.positions.to(device), values.to(device))


def _tensors(target: Target) -> Mapping[str, Tensor]:
    return target.state_dict(keep_vars=True) if isinstance(target, nn.Module) else target


def _weight(tensors: Mapping[str, Tensor], name: str, plan: Plan | None) -> Tensor:
    """Return a weight of the target; raises InvalidValue when a stack cannot find its own again."""
    weight = tensors.get(name)
    if weight is None or (plan and weight.dtype != plan.original.dtype):
        state = "is gone" if weight is None else f"was cast to {weight.dtype}"
        raise InvalidValue(
            f"{name} {state} while adapters were applied to it: remove() them before changing the "
            "model, and load the base again now"
        )
    return weight


def _check_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Raise InvalidValue for a tensor that cannot be edited, or that two names share."""
    names: dict[tuple[torch.device, int], str] = {}
    for name, tensor in tensors.items():
        entries.check_layout(name, tensor)
        other = names.setdefault((tensor.device, tensor.data_ptr()), name)
        if other != name:
            raise InvalidValue(
                f"{other} and {name} are one tensor in the model and two weights in the adapters: "
                "untie them first"
            )

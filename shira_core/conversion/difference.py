"""An adapter from a fine-tuned model and the base that it was tuned from."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..adapter import Adapter
from ..errors import ArchitectureMismatch, InvalidValue, ShapeMismatch
from ..header import Header
from ..mask import Shape
from ..names import UNET, component, detect, label
from .choice import Choice, Energy, Share
from .model import Model, open_model
from .select import Deltas, Progress, energy, select

_STARTS = ("", "model.", UNET)  # what a file of the denoiser alone may leave out
_EMA = "model_ema."


def extract(
    tuned: Path, base: Path, choice: Choice, *, progress: Progress | None = None
) -> tuple[Adapter, Energy]:
    """Return the adapter, float32, of the largest changes from `base` to `tuned`.

    Both are checkpoints or diffusers folders; one weight of each is in memory at a time. What an
    adapter does not hold (VAE, EMA copies, single numbers...) is told in the energy's `left_out`.
    Raises FileInvalid, ArchitectureMismatch, ShapeMismatch and InvalidValue.
    """
    pair = _paired(open_model(tuned), open_model(base))
    kept, reasons = _sorted_out(pair)
    weights, found = select(Deltas(kept, pair.difference), choice, progress)
    if not weights:
        raise InvalidValue(f"{tuned} and {base} are the same: there is nothing to extract")
    found = replace(found, left_out=_left_out(pair, reasons))
    return Adapter(_header(pair, choice, found), weights), found


@dataclass(frozen=True)
class _Pair:
    """Two models, and their common weights.

    named: the names in the tuned model by those in the base. shapes: of the base.
    """

    tuned: Model
    base: Model
    named: Mapping[str, str]
    shapes: Mapping[str, Shape]

    def difference(self, name: str) -> Tensor:
        """Return the change of one weight, float32."""
        return self.tuned.read(self.named[name]).float().sub_(self.base.read(name).float())

    def floating(self, name: str) -> bool:
        """Tell whether both models have floats there."""
        return self.tuned.floating(self.named[name]) and self.base.floating(name)

    def left(self, name: str) -> Share:
        """Return the change of a weight that is left out."""
        new, old = self.tuned.read(self.named[name]).float(), self.base.read(name).float()
        same = new.numel() == old.numel()  # the VAE may be of another kind
        return Share(
            cells=old.numel(), total=energy(new.reshape(-1) - old.reshape(-1)) if same else 0.0
        )


def _paired(tuned: Model, base: Model) -> _Pair:
    shapes, own = base.shapes, tuned.shapes
    start = max(_STARTS, key=lambda start: sum(start + name in shapes for name in own))
    named = {start + name: name for name in own if start + name in shapes}
    kinds = detect(own), detect(shapes)
    if not named or (kinds[0] != kinds[1] and "unknown" not in kinds):
        raise ArchitectureMismatch(
            f"{tuned.path} is {label(kinds[0])} and {base.path} is {label(kinds[1])}: "
            "give the base that the model was tuned from"
        )
    for name, other in named.items():
        if own[other] != shapes[name] and component(name) != "vae":
            raise ShapeMismatch(
                f"{name} is {_text(own[other])} in {tuned.path} and {_text(shapes[name])} in "
                f"{base.path}: give the base that the model was tuned from"
            )
    return _Pair(tuned, base, named, shapes)


def _sorted_out(pair: _Pair) -> tuple[dict[str, Shape], dict[str, list[str]]]:
    """Return the shapes of weights that an adapter can hold, and the others by what they are."""
    kept: dict[str, Shape] = {}
    others: dict[str, list[str]] = defaultdict(list)
    for name in pair.named:
        what = _other(name, pair.shapes[name])
        if what:
            others[what].append(name)
        elif name.endswith(".weight") or pair.floating(name):
            kept[name] = pair.shapes[name]
    return kept, others


def _other(name: str, shape: Shape) -> str:
    """Return what a tensor is that no adapter holds, or "" for a weight."""
    if component(name) == "vae":
        return "the VAE"
    if name.startswith(_EMA):
        return "copies for training (EMA)"
    if "." not in name:
        return "the noise schedule"
    return "" if shape else "single numbers"


def _left_out(pair: _Pair, others: Mapping[str, list[str]]) -> dict[str, Share]:
    """Return what changed of the tensors that no adapter holds, and what one model has alone."""
    found = {
        what: sum(map(pair.left, filter(pair.floating, names)), Share())
        for what, names in others.items()
    }
    changed = {what: share for what, share in found.items() if share.total}
    taken = set(pair.named.values())
    extra = [shape for name, shape in pair.tuned.shapes.items() if name not in taken]
    rest = [shape for name, shape in pair.shapes.items() if name not in pair.named]
    alone = {"only in the tuned model": extra, "only in the base": rest}
    return changed | {
        what: Share(cells=sum(map(math.prod, shapes))) for what, shapes in alone.items() if shapes
    }


def _header(pair: _Pair, choice: Choice, found: Energy) -> Header:
    return Header(
        architecture=detect(pair.shapes),
        base=pair.base.path.stem,
        base_sha256=pair.base.sha256(),
        prediction_type=pair.tuned.prediction_type or pair.base.prediction_type,
        mask="magnitude",
        density=found.total.density if choice.density is None else choice.density,
        title=pair.tuned.path.stem,
        training={
            "extracted_from": pair.tuned.path.name,
            "scope": choice.scope,
            "energy": round(found.share, 6),
        },
    )


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a single number"

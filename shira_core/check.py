"""Does an adapter fit a model? Names and shapes only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .adapter import Adapter
from .errors import ShapeMismatch, WeightMissing
from .names import detect, label

Shapes = Mapping[str, Sequence[int]]


def check_fit(adapter: Adapter, shapes: Shapes) -> None:
    """Raise for the first weight of the adapter that the model lacks or has in another shape.

    shapes: the model's shapes by weight name. Raises WeightMissing, ShapeMismatch.
    """
    for name in adapter.weights:
        wanted = tuple(adapter.weights.shape(name))
        if name not in shapes:
            raise WeightMissing(
                f"{_whose(adapter)}: the model has no weight {name}: {_why(adapter, shapes)}"
            )
        found = tuple(shapes[name])
        if wanted != found:
            raise ShapeMismatch(
                f"{_whose(adapter)}: {name} is {_text(wanted)} in the adapter and {_text(found)} "
                f"in the model: {_why(adapter, shapes)}"
            )


def _whose(adapter: Adapter) -> str:
    return str(adapter.path or adapter.header.title or "adapter")


def _why(adapter: Adapter, shapes: Shapes) -> str:
    """Say which architectures do not go together, as far as they are known."""
    theirs, ours = adapter.header.architecture, detect(shapes)
    if theirs == ours or "unknown" in (theirs, ours):
        base = f" ({adapter.header.base})" if adapter.header.base else ""
        return f"it was trained for another model{base}; use it with a model of that kind"
    return f"it was trained for {label(theirs)} and the model is {label(ours)}"


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a single number"

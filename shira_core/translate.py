"""Read an adapter under other names than the checkpoint's, and write one from such names.

A *target* is a model whose weights are named, cut or turned differently than in the original
checkpoint: CLIP in transformers has three projections where OpenCLIP has one fused weight. A
`Source` says where a target weight lies in the checkpoint; `keymaps` has those of known models.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .adapter import Adapter, MemoryWeights, Weights
from .errors import ShapeMismatch, WeightMissing
from .mask import Mask, Shape, SparseDelta, Struct
from .names import component


@dataclass(frozen=True)
class Source:
    """Where a target weight lies: a part of the rows of a checkpoint weight, perhaps transposed.

    name: the checkpoint weight. Its rows are cut into `parts` equal ranges (1: not cut), of which
    the target is number `part`; `transposed` (2-D only) turns that range afterwards.
    """

    name: str
    part: int = 0
    parts: int = 1
    transposed: bool = False


def translated(
    adapter: Adapter, sources: Mapping[str, Source], *, apart: tuple[str, ...] = ()
) -> Adapter:
    """Return the adapter under target names, its weights read through the original when used.

    sources: where each weight of the target lies; those that the adapter leaves alone drop out.
    apart: prefixes of checkpoint names that the caller applies elsewhere.
    Raises WeightMissing when anything else of the adapter has no place in the target, and
    ShapeMismatch when a weight cannot be cut or turned as its source says.
    """
    weights = _Translated(adapter.weights, sources)
    placed = {(source.name, source.part) for source in weights.sources.values()}
    parts = {source.name: source.parts for source in weights.sources.values()}
    for name in adapter.weights:
        if not name.startswith(apart):
            for part in range(parts.get(name, 1)):
                if (name, part) not in placed:
                    raise _no_place(adapter, name, sources)
    return replace(adapter, weights=weights)


def to_checkpoint(adapter: Adapter, sources: Mapping[str, Source]) -> Adapter:
    """Return the adapter of a target under checkpoint names, in memory: undoes `translated`.

    Parts of one checkpoint weight are joined; a part that the adapter leaves alone has no entries.
    Raises WeightMissing for a weight without a source.
    """
    parts: dict[str, list[str]] = defaultdict(list)
    for target in adapter.weights:
        if target not in sources:
            raise WeightMissing(
                f"{target} is trained and has no name in a checkpoint of this model"
            )
        parts[sources[target].name].append(target)
    weights = MemoryWeights()
    for name, targets in parts.items():
        targets.sort(key=lambda target: sources[target].part)
        weights[name] = _join([(sources[t], adapter.weights[t]) for t in targets])
    return replace(adapter, weights=weights)


class _Translated:
    """Weights under target names."""

    def __init__(self, weights: Weights, sources: Mapping[str, Source]) -> None:
        self._weights = weights
        self.sources = {t: source for t, source in sources.items() if source.name in weights}
        for target in self.sources:
            self.shape(target)

    def __getitem__(self, name: str) -> SparseDelta:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __len__(self) -> int:
        return len(self.sources)

    def __contains__(self, name: object) -> bool:
        return name in self.sources

    def shape(self, name: str) -> Shape:
        source = self.sources[name]
        shape = self._weights.shape(source.name)
        if source.parts > 1:
            if shape[0] % source.parts:
                raise _unfit(source, shape, f"has no {source.parts} equal parts")
            shape = (shape[0] // source.parts, *shape[1:])
        if source.transposed:
            if len(shape) != 2:
                raise _unfit(source, shape, "is no matrix that can be transposed")
            shape = shape[::-1]
        return shape

    def count(self, name: str) -> int:
        """Number of entries; a part of a weight has to be read to know."""
        source = self.sources[name]
        return self._weights.count(source.name) if source.parts == 1 else self.read(name).count

    def read(self, name: str, device: torch.device | str = "cpu") -> SparseDelta:
        source = self.sources[name]
        delta = self._weights.read(source.name, device)
        if source.parts > 1:
            delta = _cut(delta, source)
        return _transposed(delta) if source.transposed else delta

    def origin(self, name: str) -> str:
        return self._weights.origin(self.sources[name].name)


def _cut(delta: SparseDelta, source: Source) -> SparseDelta:
    """Return one of `source.parts` equal ranges of rows."""
    shape = (delta.shape[0] // source.parts, *delta.shape[1:])
    size = math.prod(shape)
    start = source.part * size
    ends = torch.tensor([start, start + size], device=delta.positions.device)
    first, last = torch.searchsorted(delta.positions, ends).tolist()
    return SparseDelta(Mask(shape, delta.positions[first:last] - start), delta.values[first:last])


def _join(parts: list[tuple[Source, SparseDelta]]) -> SparseDelta:
    """Return the checkpoint weight of its parts, in the order of its rows."""
    turned = [(s, _transposed(delta) if s.transposed else delta) for s, delta in parts]
    source, first = turned[0]
    if source.parts == 1:
        return first
    if any(delta.shape != first.shape for _, delta in turned):
        raise ShapeMismatch(f"the parts of {source.name} have different shapes: they must be equal")
    size = math.prod(first.shape)
    positions = torch.cat([delta.positions + s.part * size for s, delta in turned])
    shape = (first.shape[0] * source.parts, *first.shape[1:])
    return SparseDelta(Mask(shape, positions), torch.cat([delta.values for _, delta in turned]))


def _transposed(delta: SparseDelta) -> SparseDelta:
    """Return the delta of the transposed matrix."""
    rows, columns = delta.shape
    positions, order = torch.sort(_turned(delta.positions, rows, columns))
    struct = delta.mask.struct
    if struct is not None:
        struct = Struct(struct.columns, struct.rows, struct.diagonal)
    return SparseDelta(Mask((columns, rows), positions, struct), delta.values[order])


def _turned(positions: Tensor, rows: int, columns: int) -> Tensor:
    row = torch.div(positions, columns, rounding_mode="floor")
    return (positions - row * columns) * rows + row


def _unfit(source: Source, shape: Shape, why: str) -> ShapeMismatch:
    return ShapeMismatch(
        f"{source.name} is {'x'.join(map(str, shape))} in the adapter and {why}: "
        "the adapter is of another architecture than the model"
    )


def _no_place(adapter: Adapter, name: str, sources: Mapping[str, Source]) -> WeightMissing:
    """Return the error for a weight of the adapter that no target weight takes."""
    parts = sorted({component(source.name) for source in sources.values()})
    return WeightMissing(
        f"{adapter.path or 'the adapter'} changes {name} ({component(name)}), and no weight of the "
        f"model lies there (it has {', '.join(parts) or 'none'}): load that part of the model too, "
        "or use a model of the adapter's architecture"
    )

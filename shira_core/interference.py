"""How much two adapters interfere: AWOM, AWOR and the share of common entries.

A weight's delta is read as a matrix A (out, in), a Conv's taps counted as inputs. Adapters whose
product A1^T A2 (in, in) is zero do not disturb each other (SHiRA, arXiv 2406.13175, Lemma 4.4):

- AWOM, adapter weight orthogonality magnitude (Definition 1): the l2 norm of A1^T A2. The paper
  means the root of the sum of squares: only that norm gives the magnitudes of its Figure 9.
- AWOR, adapter weight orthogonality ratio (Definition 2): share of zeros in A1^T A2. An entry
  counts as zero when no row holds an entry of A1 in its first and of A2 in its second column;
  sums that cancel exactly, and deltas stored as 0.0, count as non-zero.
- overlap: common entries / entries of the smaller adapter.

The product itself is never built when it is wider than high. AWOM then comes from the two small
Gram matrices: ||A1^T A2||^2 = sum((A1 A1^T) * (A2 A2^T)). AWOR comes from bit sets: column p of
A1 meets the union of A2's rows in which p has an entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .adapter import Adapter
from .errors import ShapeMismatch
from .mask import Shape, SparseDelta

_BLOCK_CELLS = 1 << 22  # dense float64 cells held per block of a product: 32 MB
_BITS_IN = np.array([bin(word).count("1") for word in range(1 << 16)], dtype=np.uint8)


@dataclass(frozen=True)
class WeightReport:
    """Interference in one weight.

    awom >= 0; awor and overlap in 0..1. `shared`, `smaller`: common entries, and entries of the
    adapter that has fewer here. `touched` of `cells` entries of A1^T A2 are not zero.
    """

    awom: float
    shared: int
    smaller: int
    touched: int
    cells: int

    @property
    def awor(self) -> float:
        return 1.0 - self.touched / self.cells if self.cells else 1.0

    @property
    def overlap(self) -> float:
        return self.shared / self.smaller if self.smaller else 0.0


@dataclass(frozen=True)
class Report:
    """Interference of two adapters: per weight that both change, and in total.

    awom: l2 norm of all products together, the root of the sum of the weights' squares.
    awor: share of zeros in the products of all weights that either adapter changes; a weight
        that only one changes has an all-zero product.
    overlap: all common entries / all entries of the smaller adapter.
    """

    weights: Mapping[str, WeightReport]
    awom: float
    awor: float
    overlap: float

    @property
    def advice(self) -> str:
        """What the figures mean for a person who wants to use both at once.

        Judged by the scale-free figures; AWOM grows with the strength of both adapters.
        """
        if not self.weights:
            return "they change no weight in common: mix freely"
        if said := advice_on(self.overlap):
            return said
        if self.awor >= 0.9:
            return "they barely touch: mix freely"
        return (
            "few common entries, but they meet in the same rows: mix, lower an alpha if one fades"
        )


def advice_on(overlap: float) -> str:
    """Say what to do about a share of common entries; "" where it is small."""
    if overlap >= 0.5:
        return "lower the alphas, or train one again with the setting shard at 1"
    if overlap >= 0.1:
        return "mix with lower alphas and look at the result"
    return ""


def compare(
    a: Adapter, b: Adapter, *, progress: Callable[[int, int], None] | None = None
) -> Report:
    """Measure how much `a` and `b` interfere; symmetric in its arguments.

    progress: called with the number of weights compared and of all that both change.

    Weights are read one by one. Memory: 32 * s^2 bytes with s the shorter side of the largest
    weight that both change, plus about 0.2 GB. Raises ShapeMismatch where the adapters disagree
    on a weight's shape.
    """
    common = [name for name in a.weights if name in b.weights]
    weights = {}
    for done, name in enumerate(common, 1):
        weights[name] = _compare_weight(a, b, name)
        if progress:
            progress(done, len(common))
    alone = sum(_cells(shape) for shape in _lone_shapes(a, b))
    cells = alone + sum(report.cells for report in weights.values())
    touched = sum(report.touched for report in weights.values())
    smaller = min(a.entries, b.entries)
    shared = sum(report.shared for report in weights.values())
    return Report(
        weights=weights,
        awom=math.sqrt(math.fsum(report.awom**2 for report in weights.values())),
        awor=1.0 - touched / cells if cells else 1.0,
        overlap=shared / smaller if smaller else 0.0,
    )


def compare_deltas(a: SparseDelta, b: SparseDelta) -> WeightReport:
    """Measure the interference of two deltas of one weight (equal shapes, on the CPU)."""
    return WeightReport(
        awom=awom(a, b),
        shared=shared_entries(a.positions, b.positions),
        smaller=min(a.count, b.count),
        touched=touched_cells(a, b),
        cells=_cells(a.shape),
    )


def awom(a: SparseDelta, b: SparseDelta) -> float:
    """Return ||A1^T A2||_2 (root of the sum of squares) in float64 (SHiRA, Definition 1)."""
    outputs, inputs = matrix_shape(a.shape)
    if inputs <= 2 * outputs:  # fewer operations than two Gram matrices
        first, second = (_Grid.by_row(delta, inputs) for delta in (a, b))
        product = _inner_product(first, second, outputs, inputs)
        return float(product.square_().sum().sqrt())
    grams = []
    for delta in (a, b):
        grid = _Grid.by_column(delta, inputs)
        grams.append(_inner_product(grid, grid, inputs, outputs))
    # Rounding may leave a tiny negative sum where the products are all but orthogonal.
    return math.sqrt(max(0.0, float(grams[0].mul_(grams[1]).sum())))


def touched_cells(a: SparseDelta, b: SparseDelta) -> int:
    """Count the entries of A1^T A2 to which at least one row contributes: ||A1^T A2||_0."""
    inputs = matrix_shape(a.shape)[1]
    few, many = (a, b) if a.count <= b.count else (b, a)
    if not few.count:
        return 0
    rows_of_many = _bit_rows(many)
    return sum(_count_bits(union) for union in _unions(few, inputs, rows_of_many))


def shared_entries(first: Tensor, second: Tensor) -> int:
    """Count positions in both int64 (n,) lists, each strictly increasing."""
    few, many = (first, second) if first.numel() <= second.numel() else (second, first)
    if not few.numel():
        return 0
    found = torch.searchsorted(many, few).clamp_(max=many.numel() - 1)
    return int((many[found] == few).sum())


def matrix_shape(shape: Shape) -> tuple[int, int]:
    """Return (outputs, inputs * taps) of a weight's shape."""
    outputs = shape[0] if shape else 1
    return outputs, math.prod(shape[1:])


@dataclass(frozen=True)
class _Grid:
    """Entries of a matrix in order of one index, `inner`; `outer` is the other index."""

    inner: Tensor
    outer: Tensor
    values: Tensor

    @classmethod
    def by_row(cls, delta: SparseDelta, inputs: int) -> _Grid:
        return cls(delta.positions // inputs, delta.positions % inputs, delta.values.double())

    @classmethod
    def by_column(cls, delta: SparseDelta, inputs: int) -> _Grid:
        columns, order = torch.sort(delta.positions % inputs, stable=True)
        return cls(columns, (delta.positions // inputs)[order], delta.values.double()[order])

    def dense(self, start: int, stop: int, width: int) -> Tensor:
        """Return the rows start..stop of the inner index as float64 (stop - start, width)."""
        first, last = torch.searchsorted(self.inner, torch.tensor([start, stop])).tolist()
        flat = torch.zeros((stop - start) * width, dtype=torch.float64)
        cells = (self.inner[first:last] - start) * width + self.outer[first:last]
        flat[cells] = self.values[first:last]
        return flat.view(stop - start, width)


def _inner_product(first: _Grid, second: _Grid, depth: int, width: int) -> Tensor:
    """Return first^T second as float64 (width, width), summed over the inner index in blocks."""
    product = torch.zeros(width, width, dtype=torch.float64)
    step = max(1, _BLOCK_CELLS // max(1, width))
    for start in range(0, depth, step):
        stop = min(depth, start + step)
        left = first.dense(start, stop, width)
        right = left if second is first else second.dense(start, stop, width)
        product.addmm_(left.T, right)
    return product


def _bit_rows(delta: SparseDelta) -> Tensor:
    """Return the support as int64 (outputs, words): bit c of row r is set for the entry (r, c)."""
    outputs, inputs = matrix_shape(delta.shape)
    row_bytes = -(-inputs // 64) * 8
    columns = delta.positions % inputs
    target = (delta.positions // inputs) * row_bytes + columns // 8
    bits = torch.ones_like(columns).bitwise_left_shift_(columns % 8).to(torch.uint8)
    packed = torch.zeros(outputs * row_bytes, dtype=torch.uint8)
    packed.index_add_(0, target, bits)  # each bit occurs once, so adding is or-ing
    return packed.view(torch.int64).view(outputs, row_bytes // 8)


def _unions(delta: SparseDelta, inputs: int, rows: Tensor, block: int = 128) -> Iterator[Tensor]:
    """Yield int64 (columns, words) blocks: per column of `delta`, the union of its rows' bits.

    Columns go by falling count, so those with a t-th entry are always the head of a block.
    """
    columns, by_column = torch.sort(delta.positions % inputs, stable=True)
    row_of = (delta.positions // inputs)[by_column]
    counts = torch.bincount(columns, minlength=inputs)
    starts = torch.cumsum(counts, 0) - counts
    order = torch.argsort(counts, descending=True)[: int((counts > 0).sum())]
    for chosen in order.split(block):
        sizes, offsets = counts[chosen], starts[chosen]
        at_least = torch.bincount(sizes).flip(0).cumsum(0).flip(0).tolist()
        union = torch.zeros(chosen.numel(), rows.shape[1], dtype=torch.int64)
        for turn, live in enumerate(at_least[1:]):
            union[:live] |= rows[row_of[offsets[:live] + turn]]
        yield union


def _count_bits(words: Tensor) -> int:
    """Return the number of set bits in an int64 tensor."""
    return int(_BITS_IN[words.numpy().view(np.uint16)].sum(dtype=np.int64))


def _compare_weight(a: Adapter, b: Adapter, name: str) -> WeightReport:
    """Read the weight `name` of both adapters and compare it."""
    first, second = a.weights.shape(name), b.weights.shape(name)
    if tuple(first) != tuple(second):
        sizes = ("x".join(map(str, shape)) for shape in (first, second))
        raise ShapeMismatch(
            f"{name} is {' in the first adapter and '.join(sizes)} in the second: they were trained"
            " for different architectures; compare adapters of one architecture"
        )
    return compare_deltas(a.weights.read(name), b.weights.read(name))


def _lone_shapes(a: Adapter, b: Adapter) -> Iterator[Shape]:
    """Yield the shapes of the weights that only one of the adapters changes."""
    for mine, other in ((a, b), (b, a)):
        yield from (mine.weights.shape(name) for name in mine.weights if name not in other.weights)


def _cells(shape: Shape) -> int:
    """Return the number of entries of A1^T A2."""
    return matrix_shape(shape)[1] ** 2

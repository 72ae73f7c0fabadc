"""The largest entries of dense deltas, which are computed one by one.

Matrices and kernels are what a choice is about. Vectors (biases, norms) are kept whole: they are
less than a thousandth of a model, and each of their entries acts on a whole channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..adapter import MemoryWeights
from ..entries import finite
from ..errors import InvalidValue
from ..mask import Mask, Shape, SparseDelta
from . import spectrum as spectra
from .choice import Choice, Energy, Share
from .spectrum import Cut, Spectrum

_BLOCK, _ALIGNED = 1 << 26, 64  # bytes
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Deltas:
    """Dense deltas to choose from.

    read: one by name, floating, of its shape; with a global scope asked for three times.
    """

    shapes: Mapping[str, Shape]
    read: Callable[[str], Tensor]


def select(
    deltas: Deltas, choice: Choice, progress: Progress | None = None
) -> tuple[MemoryWeights, Energy]:
    """Return the chosen entries, float32, and what they carry; weights without any are left out.

    Equal magnitudes rank by weight and position. Entries that are zero are never kept. Memory: one
    weight, and 12 bytes for each kept entry. progress: called with weights done and in all.
    Raises InvalidValue for NaN and infinite values.
    """
    reader = _Reader(deltas, 3 if choice.scope == "global" else 1, progress)
    common = _common_cut(reader, choice) if choice.scope == "global" else None
    weights, shares, total, shelf = MemoryWeights(), {}, spectra.empty(), _Shelf()
    for name, shape, flat in reader.all():
        cut, own = None, spectra.spectrum(flat)
        if len(shape) > 1:
            total += own
            cut = common or _own_cut(flat, own, choice)
        positions = _kept(flat, cut)
        if common and cut:
            common = _after(common, flat, positions)
        values = shelf.put(flat[positions])
        shares[name] = Share(len(values), flat.numel(), energy(values), float(own.energy.sum()))
        if len(values):
            weights[name] = SparseDelta(Mask(shape, shelf.put(positions)), values)
    return weights, Energy(shares, {}, total.curve())


class _Reader:
    """Reads all deltas, again and again, and tells how far it is."""

    def __init__(self, deltas: Deltas, passes: int, progress: Progress | None) -> None:
        self._deltas, self._progress = deltas, progress
        self._done, self._all = 0, passes * len(deltas.shapes)

    def all(self) -> Iterator[tuple[str, Shape, Tensor]]:
        """Yield the name, the shape and the flat float32 delta of each weight."""
        for name, shape in self._deltas.shapes.items():
            flat = self._deltas.read(name).reshape(-1).float()
            if not finite(flat):
                raise InvalidValue(
                    f"the change of {name} has NaN or infinite values: the model that it comes "
                    "from is broken; get it again"
                )
            yield name, tuple(shape), flat
            self._done += 1
            if self._progress:
                self._progress(self._done, self._all)

    def matrices(self) -> Iterator[Tensor]:
        """Yield the flat deltas that a choice is about."""
        return (flat for _, shape, flat in self.all() if len(shape) > 1)


class _Shelf:
    """Keeps tensors in few large blocks of memory.

    Small ones that stay would lie between large ones that go, in holes that are never large enough
    again: measured on 120 weights of 4 MB, the peak was 630 MB instead of 110.
    """

    def __init__(self) -> None:
        self._block, self._used = torch.empty(0, dtype=torch.uint8), 0

    def put(self, tensor: Tensor) -> Tensor:
        """Return a copy of a vector of numbers."""
        size = tensor.numel() * tensor.itemsize
        if self._used + size > len(self._block):
            self._block, self._used = torch.empty(max(size, _BLOCK), dtype=torch.uint8), 0
        place = self._block[self._used : self._used + size].view(tensor.dtype)
        self._used += -(-size // _ALIGNED) * _ALIGNED
        return place.copy_(tensor)


def _own_cut(flat: Tensor, own: Spectrum, choice: Choice) -> Cut:
    """Return where to cut one weight by itself."""
    found = spectra.boundary(own, choice)
    return spectra.cut(*spectra.members(flat, found.number), found.rest, choice)


def _common_cut(reader: _Reader, choice: Choice) -> Cut:
    """Return where to cut all weights together: one pass finds the class, another its members."""
    total = sum(map(spectra.spectrum, reader.matrices()), spectra.empty())
    found = spectra.boundary(total, choice)
    values, counts = torch.empty(0), torch.empty(0, dtype=torch.int64)
    for flat in reader.matrices():
        more, times = spectra.members(flat, found.number)
        values, places = torch.unique(torch.cat([values, more]), return_inverse=True)
        counts = torch.cat([counts, times])
        counts = torch.zeros(len(values), dtype=torch.int64).index_add_(0, places, counts)
    return spectra.cut(values, counts, found.rest, choice)


def _kept(flat: Tensor, cut: Cut | None) -> Tensor:
    """Return the positions that a cut keeps, int64, rising; without one all that are not zero."""
    if cut is None:
        return flat.nonzero().view(-1)
    magnitudes = flat.abs()
    chosen = magnitudes > cut.least
    if cut.ties:
        chosen[(magnitudes == cut.least).nonzero().view(-1)[: cut.ties]] = True
    return chosen.nonzero().view(-1)


def _after(cut: Cut, flat: Tensor, positions: Tensor) -> Cut:
    """Return the cut for the next weight: what this one has used of the ties is gone."""
    return Cut(cut.least, cut.ties - int((flat[positions].abs() == cut.least).sum()))


def energy(values: Tensor) -> float:
    """Return the sum of squares."""
    return float(values.double().square().sum())

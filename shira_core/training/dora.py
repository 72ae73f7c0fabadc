"""SHiRA-WM-DoRA: a masked weight-decomposed delta (SHiRA, table 2; DoRA, eq. 5).

Let W be the base, D the trained values (zero outside the mask), V = W + D, and per output channel i
(as in DoRA's code) c_i = ||V_i|| over inputs and taps, and a trained magnitude m_i, at first
||W_i||. DoRA's weight is m_i V_i / c_i; the mask keeps of it the trained entries alone:

    W'_p = m_i V_p / c_i  where p is in the mask,  W'_p = W_p elsewhere

so the exported delta, W' - W, is an ordinary sparse delta. With g_p = dL/dW'_p and
s_i = sum of g_p V_p over the trained entries of channel i,

    dL/dm_i = s_i / c_i          dL/dD_p = m_i / c_i * (g_p - V_p s_i / c_i^2)

which needs the trained entries only: the rest of a channel enters c_i as a constant, since
c_i^2 = ||W_i||^2 + sum of D_p (2 W_p + D_p). (DoRA's code treats c_i as a constant; this is exact.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Decomposition:
    """The fixed part of one weight.

    base: (entries,) W at the trained entries. channels: int64 (entries,), the output channel of
    each. squares: (outputs,) ||W_i||^2.
    """

    base: Tensor
    channels: Tensor
    squares: Tensor

    @property
    def outputs(self) -> int:
        return self.squares.numel()


def decompose(weight: Tensor, positions: Tensor, base: Tensor) -> Decomposition:
    """Return the decomposition of a weight whose trained entries hold `base`."""
    channels = torch.div(positions, weight[0].numel(), rounding_mode="floor")
    squares = weight.detach().flatten(1).to(base.dtype).square().sum(1)
    return Decomposition(base, channels, squares)


def delta(fixed: Decomposition, values: Tensor, growth: Tensor) -> Tensor:
    """Return W' - W at the trained entries; exactly zero where nothing was trained.

    values: D, (entries,). growth: m - ||W||, (outputs,).
    """
    scale = _scale(fixed, values, growth)[fixed.channels]
    return (scale - 1) * fixed.base + scale * values


def gradient(
    fixed: Decomposition, values: Tensor, growth: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Return dL/dD and dL/dm from dL/dW' at the trained entries."""
    moved = fixed.base + values
    norms, scale = _norms(fixed, values), _scale(fixed, values, growth)
    pull = _per_channel(fixed, grad * moved) / norms
    inward = (pull / norms)[fixed.channels]
    return scale[fixed.channels] * (grad - moved * inward), pull


def _scale(fixed: Decomposition, values: Tensor, growth: Tensor) -> Tensor:
    return (_start(fixed) + growth) / _norms(fixed, values)


def _norms(fixed: Decomposition, values: Tensor) -> Tensor:
    change = _per_channel(fixed, values * (2 * fixed.base + values))
    return _root(fixed.squares + change)


def _start(fixed: Decomposition) -> Tensor:
    return _root(fixed.squares)


def _root(squares: Tensor) -> Tensor:
    return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()


def _per_channel(fixed: Decomposition, entries: Tensor) -> Tensor:
    return torch.zeros_like(fixed.squares).index_add_(0, fixed.channels, entries)

"""Shapes, budgets and checks for tests of masks."""

import math

import torch

SHAPES = {
    "linear": (40, 30),
    "wide": (12, 190),
    "narrow": (190, 12),
    "conv1d": (10, 8, 5),
    "conv2d 1x1": (24, 40, 1, 1),
    "conv2d 3x3": (16, 12, 3, 3),
}
BUDGETS = [{"density": 0.02}, {"density": 0.1}, {"density": 1.0}, {"rank": 1}, {"rank": 2}]


def budget_of(shape, density=None, rank=None):
    """A share of the weight, or the parameters of LoRA: an (r, in, kh, kw) and an (out, r)."""
    total = math.prod(shape)
    if density is not None:
        return int(density * total)
    down, up = rank * math.prod(shape[1:]), rank * shape[0]
    return min(total, down + up)


def check(mask, shape):
    """What holds for any mask."""
    assert mask.shape == shape
    assert mask.positions.dtype == torch.int64
    assert (mask.positions.diff() > 0).all()
    assert mask.dense().sum() == mask.count
    assert mask.density == mask.count / math.prod(shape)

"""Positions as gaps, one byte per entry (docs/format.md).

Walking from position -1, a byte b < 255 goes b + 1 positions on and names an entry; the byte 255
goes 255 on and names none. So positions are sorted and unique by construction, and each set of
positions has exactly one encoding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import FileInvalid

ESCAPE = 255


def encode(positions: Tensor) -> Tensor:
    """Return the gaps of strictly increasing int64 positions (entries,), as uint8."""
    start = positions.new_full((1,), -1)
    distance = torch.diff(positions, prepend=start) - 1
    escapes = torch.div(distance, ESCAPE, rounding_mode="floor")
    last = distance - escapes * ESCAPE
    ends = torch.cumsum(escapes + 1, 0) - 1
    total = int(ends[-1]) + 1 if len(ends) else 0
    gaps = torch.full((total,), ESCAPE, dtype=torch.uint8, device=positions.device)
    gaps[ends] = last.to(torch.uint8)
    return gaps


def decode(gaps: Tensor, numel: int, count: int) -> Tensor:
    """Return int64 positions (count,) of uint8 gaps, on their device.

    numel: size of the weight. Raises FileInvalid unless there are exactly `count` positions, all
    below `numel`, in the one canonical encoding.
    """
    entry = gaps != ESCAPE
    positions = torch.cumsum(gaps, 0, dtype=torch.int64)
    if len(gaps) == count:
        positions += torch.arange(count, device=gaps.device)
    else:
        positions += torch.cumsum(entry, 0) - 1
        positions = positions[entry]
    if int(entry.sum()) != count or not bool(entry[-1:].all()):
        raise FileInvalid("positions that do not match its values in number")
    if count and int(positions[-1]) >= numel:
        raise FileInvalid(f"a position outside of its {numel} entries")
    return positions

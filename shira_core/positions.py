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
    if len(gaps) == count:
        positions = torch.cumsum(gaps, 0, dtype=torch.int64)
        positions += torch.arange(count, device=gaps.device)
        escaped = False
    else:
        entry = gaps != ESCAPE
        positions = (torch.cumsum(gaps.to(torch.int64) + entry, 0) - 1)[entry]
        escaped = len(gaps) > 0 and not bool(entry[-1])
    if len(positions) != count or escaped or (len(gaps) == count and bool((gaps == ESCAPE).any())):
        raise FileInvalid("positions and values do not match in number")
    if count and int(positions[-1]) >= numel:
        raise FileInvalid(f"a position lies outside the weight's {numel} entries")
    return positions

"""SHiRA-WM: the entries of largest magnitude (SHiRA, section 3.1)."""

from __future__ import annotations

from ..mask import Mask
from .ranking import best
from .request import Request


def wm(request: Request) -> Mask:
    """Return the entries with the largest |weight|."""
    return best(request, request.weight.detach().float().abs())

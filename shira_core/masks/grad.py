"""SHiRA-Grad: the entries that the calibration data pulls at most (SHiRA, section 3.1)."""

from __future__ import annotations

from ..mask import Mask
from .ranking import best, gradient_of
from .request import Request


def grad(request: Request) -> Mask:
    """Return the entries with the largest |gradient|."""
    return best(request, gradient_of(request).abs())

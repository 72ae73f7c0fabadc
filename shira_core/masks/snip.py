"""SHiRA-SNIP: the entries whose removal would change the loss most (SHiRA, section 3.1; SNIP)."""

from __future__ import annotations

from ..mask import Mask
from .ranking import best, gradient_of
from .request import Request


def snip(request: Request) -> Mask:
    """Return the entries with the largest |weight * gradient|."""
    return best(request, (request.weight.detach().float() * gradient_of(request)).abs())

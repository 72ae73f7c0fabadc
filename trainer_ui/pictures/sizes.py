"""In which size a picture would be trained, and whether it is too small for that."""

from __future__ import annotations

from collections.abc import Iterator

from ..engine.data import buckets
from ..engine.data.buckets import Rule, Size
from ..engine.errors import DataInvalid

USUAL = Rule(512, 64)
TINY = 1.5  # a picture that is enlarged more looks soft


def bucket(size: Size, rule: Rule) -> Size | None:
    """Return the size that a picture is trained in, None for one that is not."""
    try:
        return buckets.fit(size, rule)
    except DataInvalid:
        return None


def problems(size: Size, rule: Rule) -> Iterator[str]:
    """Yield what is wrong with a picture that is too small."""
    try:
        larger = buckets.scale(size, buckets.fit(size, rule))
    except DataInvalid as error:
        yield f"tiny: not trained, {error}"
        return
    if larger > TINY:
        yield f"tiny: {size[0]}x{size[1]}, enlarged {larger:.1f} times for {rule.resolution}"

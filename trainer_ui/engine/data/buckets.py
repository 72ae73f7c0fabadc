"""Aspect-ratio buckets: the sizes that pictures are trained in.

All have about the area of a square of the resolution, and sides that the UNet can halve as often
as it does (NovelAI's aspect-ratio bucketing).
"""

from __future__ import annotations

import math
from functools import lru_cache

STEP = 8  # latents that sides are multiples of: the UNet halves them three times
Size = tuple[int, int]  # width and height in pixels


def sizes(
    resolution: int, step: int, smallest: int | None = None, largest: int | None = None
) -> tuple[Size, ...]:
    """Return the buckets of a resolution, sorted: its square, and others of no larger area.

    Their sides are multiples of `step`, from `smallest` (None: half the resolution) to `largest`
    (None: twice the resolution).
    """
    low, high = smallest or resolution // 2, largest or 2 * resolution
    found = {(resolution, resolution)}
    for width in range(max(1, -(-low // step)) * step, high + 1, step):
        height = min(resolution**2 // width, high) // step * step
        if height >= max(low, 1):
            found |= {(width, height), (height, width)}
    return tuple(sorted(found))


@lru_cache(maxsize=4096)  # most data sets have few sizes
def choose(size: Size, buckets: tuple[Size, ...]) -> Size:
    """Return the bucket of the nearest shape; of two such, the larger one."""
    width, height = size

    def distance(bucket: Size) -> tuple[float, int]:
        stretch = math.log(bucket[0] * height) - math.log(bucket[1] * width)
        return round(abs(stretch), 9), -bucket[0] * bucket[1]

    return min(buckets, key=distance)


def scale(size: Size, bucket: Size) -> float:
    """Return how much a picture is enlarged to cover a bucket; less than 1: made smaller."""
    return max(bucket[0] / size[0], bucket[1] / size[1])


def within(size: Size, bucket: Size, step: int) -> Size:
    """Return the part of a bucket that a picture covers without being enlarged.

    A side is 0 where the picture is shorter than one step.
    """
    if scale(size, bucket) <= 1:
        return bucket
    width, height = (min(pair) // step * step for pair in zip(size, bucket, strict=True))
    return width, height

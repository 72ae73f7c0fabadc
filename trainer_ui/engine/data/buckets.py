"""Aspect-ratio buckets: the sizes that pictures are trained in.

All have about the area of a square of the resolution, and sides that the UNet can halve as often
as it does (NovelAI's aspect-ratio bucketing).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from ..config.data import DataSettings
from ..errors import ConfigInvalid, DataInvalid

STEP = 8  # latents that sides are multiples of: the UNet halves them three times
MAX_ENLARGED = 8  # a picture that is enlarged more shows nothing but its blur
Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True)
class Rule:
    """What decides in which bucket a picture is trained.

    step: pixels that sides are multiples of. shapes: false for the square alone.
    smallest, largest, enlarge: bucket_min, bucket_max and enlarge of the settings.
    """

    resolution: int
    step: int
    shapes: bool = True
    smallest: int | None = None
    largest: int | None = None
    enlarge: bool = True


def rule(settings: DataSettings, resolution: int, step: int) -> Rule:
    """Return the rule of a run; raises ConfigInvalid when no bucket fits."""
    smallest, largest = settings.bucket_min, settings.bucket_max
    if (smallest or 0) > resolution or (largest or resolution) < resolution:
        raise ConfigInvalid(
            f"bucket_min {smallest} and bucket_max {largest} leave no room for the resolution "
            f"{resolution}: set them below and above it, or leave them out"
        )
    return Rule(resolution, step, settings.buckets, smallest, largest, settings.enlarge)


@lru_cache(maxsize=4096)  # most data sets have few sizes
def fit(size: Size, rule: Rule) -> Size:
    """Return the bucket of a picture; raises DataInvalid for one that is too small."""
    bucket = choose(size, _all(rule))
    if not rule.enlarge:
        bucket = within(size, bucket, rule.step)
        smallest = rule.smallest or min(rule.step, rule.resolution)
        if min(bucket) < smallest:
            raise DataInvalid(
                f"too small ({size[0]}x{size[1]}) for the smallest side {smallest}, and "
                "enlarge is off"
            )
    enlarged = scale(size, bucket)
    if enlarged > MAX_ENLARGED:
        raise DataInvalid(
            f"too small ({size[0]}x{size[1]}): it would be enlarged {enlarged:.0f} times"
        )
    return bucket


@lru_cache(maxsize=64)
def _all(rule: Rule) -> tuple[Size, ...]:
    if not rule.shapes:
        return ((rule.resolution, rule.resolution),)
    return sizes(rule.resolution, rule.step, rule.smallest, rule.largest)


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

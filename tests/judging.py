"""What the shipped judge says of pictures: a small network that names object and style."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "assets"
REFERENCE = ROOT / "benchmarks" / "reference"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(REFERENCE)
    _judge, _pictures = map(import_module, ("judge", "pictures"))

OBJECTS: dict[str, list[str]] = _pictures.splits()


@dataclass(frozen=True)
class Verdict:
    """What the judge says of pictures whose object and style are known.

    object, style: probability of the known one, float32 (pictures,).
    object_named, style_named: where it is the most probable one, bool (pictures,).
    """

    object: Tensor
    style: Tensor
    object_named: Tensor
    style_named: Tensor


def judged(pictures: Tensor, objects: Sequence[str], styles: Sequence[str]) -> Verdict:
    """Judge uint8 pictures (n, 3, 128, 128), the n-th of `objects[n]` in `styles[n]`."""
    judge = _opened()
    found = judge.scores(pictures)
    known = (
        torch.tensor([judge.objects.index(name) for name in objects]),
        torch.tensor([judge.styles.index(name) for name in styles]),
    )
    probabilities = [p.gather(1, k[:, None])[:, 0] for p, k in zip(found, known, strict=True)]
    named = [p.argmax(1) == k for p, k in zip(found, known, strict=True)]
    return Verdict(*probabilities, *named)


def share(named: Tensor) -> float:
    """Return the share of true elements."""
    return named.float().mean().item()


def stacked(images: Sequence[Image.Image]) -> Tensor:
    """Return pictures of one size as uint8 (n, 3, h, w)."""
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@functools.cache
def _opened() -> Any:
    return _judge.read_judge(ASSETS / "judge.safetensors")

"""SHiRA-Rand: entries drawn at random (SHiRA, section 3.1).

The positions are a slice of one pseudo-random permutation of the weight, keyed by seed and layer:
shards are disjoint, nothing but the slice is computed, and integer arithmetic alone gives the same
mask on every platform, device and version.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch

from ..mask import Mask
from .request import Request

Words = npt.NDArray[np.uint64]
ROUNDS = 8


def rand(request: Request) -> Mask:
    """Return entries drawn uniformly without replacement."""
    start, stop = request.slice()
    drawn = permuted(start, stop, request.weight.numel(), f"{request.seed}\n{request.layer}")
    positions = torch.from_numpy(np.sort(drawn).astype(np.int64))
    device = request.weight.device
    return Mask(request.shape, positions if device.type == "meta" else positions.to(device))


def permuted(start: int, stop: int, size: int, key: str) -> Words:
    """Return items start..stop of the permutation of 0..size that `key` names.

    A Feistel network permutes the next power of four; a result outside is permuted again until it
    is inside (cycle walking), which leaves a permutation of 0..size.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = np.frombuffer(hashlib.sha512(key.encode()).digest(), dtype="<u8").astype(np.uint64)
    items = np.arange(start, stop, dtype=np.uint64)
    outside = np.arange(len(items))
    while len(outside):
        items[outside] = _feistel(items[outside], keys, half)
        outside = outside[items[outside] >= size]
    return items


def _feistel(items: Words, keys: Words, half: int) -> Words:
    shift, low = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = items >> shift, items & low
    for number in range(ROUNDS):
        left, right = right, left ^ (_mixed(right + keys[number : number + 1]) & low)
    return (left << shift) | right


def _mixed(words: Words) -> Words:
    """Scramble 64-bit words (the finaliser of SplitMix64)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))

"""Adapters for tests of files: random and structured deltas, and files taken apart."""

import json
import math

import torch

from shira_core import Adapter, Header, MemoryWeights
from shira_core.mask import Mask, SparseDelta, Struct

# shape, rows, columns, diagonal
STRUCTS = [
    ((4, 3, 1, 2), [2], [0], True),
    ((40, 24), [], [3, 7, 23], True),
    ((24, 40), [0, 5], [], True),
    ((24, 40), [0, 5], [1, 39], False),
    ((5, 5), [], [], True),
    ((5, 5), [0, 1, 2, 3, 4], [], False),
    ((6, 3, 3, 3), [5], [1], True),
    ((3, 4, 2, 2, 2), [1], [], False),
    ((1, 9), [], [8], False),
    ((9, 1), [], [], True),
]


def random_delta(shape, density, seed, dtype=torch.float16):
    """Return a delta of random positions, at least one, and random values."""
    generator = torch.Generator().manual_seed(seed)
    numel = math.prod(shape)
    count = max(1, int(numel * density))
    positions = torch.randperm(numel, generator=generator)[:count].sort().values
    return SparseDelta(Mask(tuple(shape), positions), some_values(count, seed, dtype))


def struct_delta(shape, rows, columns, diagonal, dtype=torch.float16, seed=0):
    """Return a delta of whole rows, columns and the diagonal, by marking them in a dense mask."""
    marked = torch.zeros(shape[0], shape[1], math.prod(shape[2:]), dtype=torch.bool)
    marked[rows], marked[:, columns] = True, True
    if diagonal:
        line = torch.arange(min(shape[:2]))
        marked[line, line] = True
    positions = marked.flatten().nonzero().flatten()
    struct = Struct(torch.tensor(rows).long(), torch.tensor(columns).long(), diagonal)
    mask = Mask(tuple(shape), positions, struct)
    return SparseDelta(mask, some_values(len(positions), seed, dtype))


def some_values(count, seed, dtype=torch.float16):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=generator).mul_(0.1).to(dtype)


def mixed_adapter(**fields):
    """Return an adapter with unstructured and Struct weights in all three dtypes."""
    weights = {
        "a.weight": random_delta((30, 40), 0.05, 1),
        "b.weight": random_delta((8, 4, 3, 3), 0.2, 2, torch.float32),
        "c.bias": random_delta((50,), 0.1, 3, torch.bfloat16),
        "d.weight": struct_delta((12, 9), [3], [1, 4], True),
        "e.weight": struct_delta((6, 5, 3, 3), [], [2], False, torch.bfloat16),
    }
    return Adapter(Header(**fields), MemoryWeights(weights))


def take_apart(path):
    """Return the JSON header, the JSON in its metadata, and the data of a `.shira` file."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["shira"]), raw[8 + length :]


def put_together(path, header, about, data):
    """Write a `.shira` file of possibly senseless parts; header and about may be text."""
    if not isinstance(header, str):
        text = about if isinstance(about, str) else json.dumps(about)
        header = json.dumps(header | {"__metadata__": header["__metadata__"] | {"shira": text}})
    encoded = header.encode("utf-8", "surrogatepass")
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    return path

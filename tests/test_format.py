"""docs/format.md is enough: a reader written from that page alone reads what we write."""

import contextlib
import itertools
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from deltas import STRUCTS, random_delta, struct_delta

from shira_core import Adapter, Header, MemoryWeights, load
from shira_core.errors import FileInvalid
from shira_core.mask import Mask, SparseDelta, Struct
from shira_core.positions import decode, encode

PAGE = Path(__file__).parents[1] / "docs" / "format.md"
VECTOR = Path(__file__).parent / "data" / "vector.shira"


# ---- a reader from the page: json, struct, numpy ----
def read_page_format(path):
    """Return the JSON of a file and (shape, positions, values) of each weight."""
    raw = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, data = json.loads(raw[8 : 8 + length].decode("utf-8")), raw[8 + length :]
    about = json.loads(header.pop("__metadata__")["shira"])

    def tensor(name):
        if name not in header:
            return None
        entry = header[name]
        begin, end = entry["data_offsets"]
        if entry["dtype"] == "BF16":
            high = np.frombuffer(data[begin:end], "<u2").astype(np.uint32)
            return (high << 16).view(np.float32)
        kinds = {"F32": "<f4", "F16": "<f2", "U8": "u1", "I32": "<i4"}
        return np.frombuffer(data[begin:end], kinds[entry["dtype"]])

    weights = {}
    for name, entry in about["weights"].items():
        values, gaps = tensor(name + ".values"), tensor(name + ".gaps")
        if gaps is not None:
            positions = rice(gaps.tobytes(), len(values))
        else:
            rows, columns = tensor(name + ".rows"), tensor(name + ".columns")
            positions = lines(entry["shape"], rows, columns, entry.get("diagonal", False))
        weights[name] = (entry["shape"], positions, values)
    return about, weights


def rice(code, count):
    k, width = code[0], (count + 7) // 8
    planes, unary = code[1 : 1 + k * width], code[1 + k * width :]
    bits = "".join(f"{byte:08b}" for byte in unary)
    positions, last, at = [], -1, 0
    for entry in range(count):
        one = bits.index("1", at)
        gap, at = one - at, one + 1
        for plane in range(k):
            byte = planes[plane * width + entry // 8]
            gap = 2 * gap + (byte >> (7 - entry % 8) & 1)
        last += gap + 1
        positions.append(last)
    return positions


def lines(shape, rows, columns, diagonal):
    outputs, inputs, taps = shape[0], shape[1], int(np.prod(shape[2:], dtype=int))
    cells = {(int(row), i) for row in (() if rows is None else rows) for i in range(inputs)}
    cells |= {(o, int(c)) for c in (() if columns is None else columns) for o in range(outputs)}
    cells |= {(i, i) for i in range(min(outputs, inputs)) if diagonal}
    return [(o * inputs + i) * taps + tap for o, i in sorted(cells) for tap in range(taps)]


# ---- the vector ----
def vector():
    """Return the adapter that the page's test vector holds."""
    lines = Struct(torch.tensor([2]), torch.tensor([0]), True)
    cells = [0, 1, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 18, 19]
    conv = Mask((4, 3, 1, 2), torch.tensor(cells), lines)
    linear = Mask((20, 40), torch.tensor([2, 3, 258, 514, 799]))
    weights = {
        "bias": SparseDelta(Mask((6,), torch.tensor([1, 5])), torch.tensor([0.1, -3.0])),
        "conv.weight": SparseDelta(conv, (torch.arange(1, 15) / 8).bfloat16()),
        "linear.weight": SparseDelta(linear, torch.tensor([0.5, -0.25, 1.0, -2.0, 2**-10]).half()),
    }
    header = Header(
        architecture="sd15",
        mask="wm",
        density=0.01,
        seed=7,
        triggers=("ink",),
        title="Vector \u00e9",
    )
    return Adapter(header, MemoryWeights(weights))


def page_entries(name):
    """Return {position: value} of a weight of the vector, as the page's table tells it."""
    row = next(line for line in PAGE.read_text("utf-8").splitlines() if f"| `{name}` |" in line)
    pairs = row.split("|")[4].split("(")[0].split(",")
    return {int(place): float(value) for place, value in (pair.split(":") for pair in pairs)}


def test_the_hex_on_the_page_is_the_file():
    dump = re.findall(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2} ?)+)  ", PAGE.read_text("utf-8"), re.M)
    assert bytes.fromhex("".join(dump)) == VECTOR.read_bytes()


def test_the_vector_is_written_byte_for_byte(tmp_path):
    assert vector().save(tmp_path / "a.shira").read_bytes() == VECTOR.read_bytes()
    again = load(VECTOR).save(tmp_path / "b.shira")
    assert again.read_bytes() == VECTOR.read_bytes()


@pytest.mark.parametrize("name", ["bias", "conv.weight", "linear.weight"])
def test_both_readers_find_what_the_page_says(name):
    said = page_entries(name)
    _, weights = read_page_format(VECTOR)
    shape, positions, values = weights[name]
    ours = load(VECTOR).weights[name]
    assert list(positions) == list(said) == ours.positions.tolist()
    for found in (values.tolist(), ours.values.tolist()):
        assert found == pytest.approx(list(said.values()), rel=1e-7)
    assert tuple(shape) == ours.shape


def test_the_header_is_what_the_page_says():
    about, _ = read_page_format(VECTOR)
    header = load(VECTOR).header
    told = ("sd15", "wm", 0.01, 7, "Vector \u00e9")
    fields = ("architecture", "mask", "density", "seed", "title")
    assert tuple(about[field] for field in fields) == told
    assert tuple(getattr(header, field) for field in fields) == told
    assert about["triggers"] == list(header.triggers) == ["ink"]
    assert about["version"] == header.version == 1


def test_the_worked_example_of_the_code():
    positions = torch.tensor([2, 3, 258, 514, 799])
    code = bytes.fromhex("07 30303838 38b010 d480")
    assert code.hex(" ") in "07 30 30 38 38 38 b0 10 d4 80"
    assert bytes(encode(positions).tolist()) == code
    assert rice(code, 5) == positions.tolist()
    assert (
        decode(torch.tensor(list(code), dtype=torch.uint8), 800, 5).tolist() == positions.tolist()
    )


# ---- files that we write ----
SHAPES = [(6,), (40, 30), (12, 6, 3, 3), (1, 1), (3, 5, 2, 2, 2), (300, 700), (1, 70_000)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("density", [0.001, 0.02, 0.5, 1.0])
def test_the_page_reads_unstructured_files(tmp_path, dtype, density):
    deltas = {
        f"layer{i}.weight": random_delta(shape, density, seed=i, dtype=dtype)
        for i, shape in enumerate(SHAPES)
    }
    agree(tmp_path / "a.shira", deltas)


@pytest.mark.parametrize(("shape", "rows", "columns", "diagonal"), STRUCTS)
def test_the_page_reads_struct_files(tmp_path, shape, rows, columns, diagonal):
    agree(tmp_path / "a.shira", {"w": struct_delta(shape, rows, columns, diagonal)})


def agree(path, deltas):
    Adapter(Header(), MemoryWeights(deltas)).save(path)
    check_page(path, deltas)


def check_page(path, deltas):
    """The reader from the format's page finds the same numbers."""
    _, weights = read_page_format(path)
    assert set(weights) == set(deltas)
    for name, (shape, positions, values) in weights.items():
        assert tuple(shape) == deltas[name].shape
        assert list(positions) == deltas[name].positions.tolist()
        assert values.tolist() == deltas[name].values.tolist()


def test_one_adapter_gives_one_file(tmp_path):
    deltas = {f"w{i}": random_delta((30, 20), 0.1, seed=i) for i in range(5)}
    backwards = dict(reversed(deltas.items()))
    files = [
        Adapter(Header(title="t"), MemoryWeights(weights)).save(tmp_path / f"{i}.shira")
        for i, weights in enumerate((deltas, deltas, backwards))
    ]
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.parametrize("k", range(0, 31))
def test_any_number_of_low_bits_can_be_read(k):
    """The page lets a writer choose k; every choice decodes to the same entries."""
    positions = torch.tensor([0, 5, 6, 299, 2**20])
    gaps = [0, 4, 0, 292, 2**20 - 300]
    planes = bytes(
        sum((gap >> bit & 1) << (7 - i) for i, gap in enumerate(gaps)) for bit in reversed(range(k))
    )
    unary = "".join("0" * (gap >> k) + "1" for gap in gaps)
    unary += "0" * (-len(unary) % 8)
    code = bytes([k]) + planes + int(unary, 2).to_bytes(len(unary) // 8, "big")
    found = decode(torch.tensor(list(code), dtype=torch.uint8), 2**20 + 1, 5)
    assert found.tolist() == positions.tolist() == rice(code, 5)
    assert len(encode(positions)) <= len(code)


@pytest.mark.parametrize(("k", "lengths"), [(0, (1, 2)), (1, (1, 2))])
def test_every_set_of_entries_has_one_code(k, lengths):
    """Of all strings of bytes, 15 decode: one for each pair of entries in a weight of six."""
    found = []
    for content in itertools.chain(*(itertools.product(range(256), repeat=n) for n in lengths)):
        code = torch.tensor([k, *content], dtype=torch.uint8)
        with contextlib.suppress(FileInvalid):
            found.append(tuple(decode(code, 6, 2).tolist()))
    assert sorted(found) == list(itertools.combinations(range(6), 2))


@pytest.mark.parametrize(("density", "limit"), [(0.01, 1.02), (0.02, 0.895), (0.05, 0.73)])
def test_positions_take_what_the_page_says(density, limit):
    delta = random_delta((1280, 1280), density, seed=0)
    assert len(encode(delta.positions)) / delta.count <= limit

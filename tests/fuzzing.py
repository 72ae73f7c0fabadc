"""Spoil valid `.shira` files in every way that comes to mind, and check what reading them does.

python tests/fuzzing.py COUNT FOLDER      run by test_fuzz.py in a process with little memory
"""

import contextlib
import copy
import io
import json
import random
import resource
import sys
import traceback
from collections import Counter
from pathlib import Path

import torch
from deltas import mixed_adapter, put_together, random_delta, struct_delta, take_apart
from hypothesis import given, settings
from hypothesis import strategies as st
from test_format import check_page

from shira_core import Adapter, Header, MemoryWeights, load
from shira_core.cli import main as command
from shira_core.errors import FileInvalid
from shira_core.header import to_json

MEMORY = 300 << 20  # bytes above what the imports take
FIELDS = {
    "architecture": "sd15",
    "density": 0.02,
    "seed": 3,
    "triggers": ("a", "b"),
    "title": "t\u00e9",
    "training": {"steps": 5, "list": [1, 2.5, None, {"x": "y"}]},
    "extra": {"ss_x": "1"},
}


def seeds(folder):
    """Write the valid files: unstructured, Struct, mixed, and small ones."""
    kinds = {
        "gaps": {"w": random_delta((30, 40), 0.05, 1), "v.x": random_delta((500,), 0.5, 2)},
        "struct": {
            "w": struct_delta((12, 9), [3], [1, 4], True),
            "v": struct_delta((4, 3, 1, 2), [], [1], False),
        },
        "mixed": dict(mixed_adapter().weights),
        "small": {"w": random_delta((1, 1), 1.0, 1)},
        "sparse": {"w": random_delta((4096, 4096), 2e-6, 1, torch.float32)},
    }
    for name, weights in kinds.items():
        yield Adapter(Header(**FIELDS), MemoryWeights(weights)).save(folder / f"{name}.shira")


# ---- the property ----
def check(path):
    """Return "valid" or "refused"; raises AssertionError for anything else that reading does."""
    try:
        adapter = load(path)
        deltas = {name: adapter.weights.read(name) for name in adapter.weights}
    except FileInvalid as error:
        text = str(error)
        assert text.isprintable(), text
        assert len(text) < 1000, text
        return "refused"
    for name, delta in deltas.items():
        check_delta(delta)
        assert adapter.weights.count(name) == delta.count
        assert adapter.weights.shape(name) == delta.shape
    check_page(path, deltas)
    check_header(adapter)
    assert adapter.entries == sum(delta.count for delta in deltas.values())
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert command(["info", str(path)]) == 0
        assert command(["info", str(path), "--json"]) == 0
    assert printed.getvalue().encode()
    return "valid"


def check_header(adapter):
    """All fields can be written as strict JSON again, and are what they should be."""
    header = adapter.header
    text = json.dumps([to_json(header), dict(header.extra)], allow_nan=False, ensure_ascii=False)
    assert text.encode()
    assert header.density is None or 0 <= header.density <= 1
    assert header.seed is None or abs(header.seed) < 1 << 64
    if len(text) % 101 == 0:  # writing is slow
        adapter.save(adapter.path.with_name("again.shira"), overwrite=True)


def check_delta(delta):
    positions, values = delta.positions, delta.values
    assert positions.dtype == torch.int64
    assert values.dtype in (torch.float16, torch.bfloat16, torch.float32)
    assert len(positions) == len(values) > 0
    assert torch.isfinite(values).all()
    assert positions[0] >= 0
    assert (positions[1:] > positions[:-1]).all()
    assert positions[-1] < torch.Size(delta.shape).numel()


# ---- ways to spoil bytes: (random, raw) -> raw ----
def flip_bits(dice, raw):
    raw = bytearray(raw)
    for _ in range(dice.choice([1, 1, 1, 2, 5, 30])):
        raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
    return bytes(raw)


def set_bytes(dice, raw):
    raw = bytearray(raw)
    at = dice.randrange(len(raw))
    size = dice.choice([1, 1, 2, 4, 8, 64])
    raw[at : at + size] = bytes([dice.choice([0, 0xFF, 0x7F, 0x80, dice.randrange(256)])]) * size
    return bytes(raw)


def flip_data(dice, raw):
    """Flip bits behind the header only."""
    start = 8 + int.from_bytes(raw[:8], "little")
    return raw[:start] + flip_bits(dice, raw[start:])


def cut(dice, raw):
    return raw[: dice.randrange(len(raw))]


def cut_out(dice, raw):
    at = dice.randrange(len(raw))
    return raw[:at] + raw[at + dice.choice([1, 2, 8, 100]) :]


def add(dice, raw):
    at = dice.choice([len(raw), dice.randrange(len(raw))])
    return raw[:at] + dice.randbytes(dice.choice([1, 2, 8, 100])) + raw[at:]


def other_length(dice, raw):
    length = int.from_bytes(raw[:8], "little")
    length = dice.choice([0, 1, 2, length - 1, length + 1, length + 8, 1 << 62, (1 << 64) - 1])
    return length.to_bytes(8, "little") + raw[8:]


BYTES = (flip_bits, flip_bits, set_bytes, flip_data, flip_data, cut, cut_out, add, other_length)


# ---- ways to spoil JSON ----
JUNK = [
    *(0, 1, -1, 2, 3, 255, 256, 65536, 1 << 31, 1 << 32, 1 << 53, 1 << 63, 1 << 64, 10**30),
    *(0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf"), 1.0),
    *(None, True, False, "", "w", "U8", "F16", "I32", "F64", "\ud800", "\u0000", "x" * 5000, "1"),
    *([], {}, [1], [[]], [1, 2, 3], {"": ""}, {"shape": [1, 1]}, [0] * 70, ["a", "b"]),
    *([1 << 24] * 8, [1 << 40, 1 << 40], [1 << 30] * 60, [10**400]),
]


def places(value, here=()):
    """Yield the path of every node."""
    yield here
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*here, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from places(value[index], (*here, index))


def put(tree, place, value):
    """Return a copy of a tree with another value at a place."""
    if not place:
        return value
    tree = copy.deepcopy(tree)
    parent = tree
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    return tree


def spoil_tree(dice, tree):
    """Replace, remove, rename or double one node."""
    place = dice.choice(list(places(tree))[1:])
    parent = tree = copy.deepcopy(tree)
    for key in place[:-1]:
        parent = parent[key]
    kind = dice.randrange(6)
    if kind == 0:
        del parent[place[-1]]
    elif kind == 1 and isinstance(parent, dict):
        parent[dice.choice(["", "w", "x.values", "w.rows", "\ud800", "a\n"])] = parent.pop(
            place[-1]
        )
    elif kind == 2 and type(parent[place[-1]]) is int:
        parent[place[-1]] += dice.choice([-8, -2, -1, 1, 2, 7, 8, 1000])
    elif kind == 3:
        other = dice.choice(list(places(tree))[1:])
        parent[place[-1]] = copy.deepcopy(get(tree, other))
    else:
        parent[place[-1]] = dice.choice(JUNK)
    return tree


def get(tree, place):
    for key in place:
        tree = tree[key]
    return tree


def spoil_text(dice, text):
    """Change the text of JSON as no tree can be changed."""
    at = dice.randrange(len(text))
    kind = dice.randrange(5)
    if kind == 0:  # a name twice
        begin = text.find('"', at)
        end = text.find(",", begin)
        return text[:end] + "," + text[begin:end] + text[end:] if 0 <= begin < end else text[:at]
    if kind == 1:
        junk = ["NaN", "9" * 5000, "1e999", "[" * 3000, "{}", "\\ud800", "\x00", "null", "-", "1e5"]
        return text[:at] + dice.choice(junk) + text[at:]
    if kind == 2:
        return text[:at] + text[at + dice.choice([1, 2, 10]) :]
    if kind == 3:
        digits = [i for i, c in enumerate(text) if c.isdigit()]
        at = dice.choice(digits) if digits else 0
        return text[:at] + dice.choice("0123456789") * dice.choice([1, 2, 9]) + text[at + 1 :]
    return text[:at] + text[at:].replace('"', "", 1)


def spoil_file(dice, parts, raw, path):
    """Write one spoilt version of a file."""
    path.unlink(missing_ok=True)  # some disks are slow to write a file again
    header, about, data = parts
    kind = dice.randrange(6)
    if kind < 2:
        path.write_bytes(dice.choice(BYTES)(dice, raw))
        return
    for _ in range(dice.choice([1, 1, 2, 3])):
        if kind == 2 and isinstance(about, dict) and about:
            about = spoil_tree(dice, about)
        elif kind == 3 and isinstance(about, str):
            about = spoil_text(dice, about)
        elif kind == 3:
            about = spoil_text(dice, json.dumps(about))
        elif kind == 4 and isinstance(header, dict) and len(header) > 1:
            header = spoil_tensors(dice, header)
        else:
            about = json.dumps(about) if not isinstance(about, str) else about
            whole = header | {"__metadata__": {"shira": about}} if isinstance(header, dict) else 0
            header = spoil_text(dice, json.dumps(whole) if whole else header)
    put_together(path, header, about, data)


def spoil_tensors(dice, header):
    """Spoil the entries of tensors; the metadata stays an object of texts."""
    spoilt = spoil_tree(dice, {name: header[name] for name in header if name != "__metadata__"})
    return spoilt | {"__metadata__": header["__metadata__"]}


# ---- the two loops ----
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)


def fuzz_with_hypothesis(files, target, found):
    """Put arbitrary JSON at an arbitrary place of either JSON."""
    parts = [take_apart(path) for path in files]

    @settings(max_examples=1500, deadline=None, database=None, derandomize=True)
    @given(data=st.data(), value=JSON, in_about=st.booleans())
    def one(data, value, in_about):
        header, about, content = data.draw(st.sampled_from(parts))
        tree = about if in_about else {k: v for k, v in header.items() if k != "__metadata__"}
        place = data.draw(st.sampled_from(list(places(tree))[1:]))
        spoilt = put(tree, place, value)
        target.unlink(missing_ok=True)
        if in_about:
            put_together(target, header, spoilt, content)
        else:
            put_together(target, spoilt | {"__metadata__": header["__metadata__"]}, about, content)
        found[check(target)] += 1

    one()


def fuzz_in_a_loop(files, target, found, count):
    dice = random.Random(0)
    parts = [(take_apart(path), path.read_bytes()) for path in files]
    for number in range(count):
        whole, raw = dice.choice(parts)
        spoil_file(dice, whole, raw, target)
        try:
            found[check(target)] += 1
        except BaseException:
            print(f"file {number} is kept as {target}", file=sys.stderr)
            raise


def limit_memory():
    """Let the process have little more memory than it has now."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def main(count, folder):
    files = list(seeds(folder))
    assert all(check(path) == "valid" for path in files)
    if sys.platform.startswith("linux"):
        limit_memory()
    found = Counter()
    target = folder / "spoilt.shira"
    try:
        fuzz_with_hypothesis(files, target, found)
        fuzz_in_a_loop(files, target, found, count)
    except BaseException:
        traceback.print_exc()
        return 1
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))

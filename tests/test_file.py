"""Writing and reading `.shira` files: round trips, laziness, other readers, sizes, refusals."""

import hashlib
import json
import math
import os

import pytest
import safetensors
import safetensors.torch
import torch
from deltas import STRUCTS, mixed_adapter, random_delta, some_values, struct_delta
from hypothesis import given, settings
from hypothesis import strategies as st

from shira_core import Adapter, Header, MemoryWeights, load
from shira_core.errors import FileInvalid, InvalidValue
from shira_core.mask import Mask, SparseDelta, Struct

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
FAST = settings(deadline=None, max_examples=60)


def adapter(weights, **fields):
    return Adapter(Header(**fields), MemoryWeights(weights))


def delta_of(shape, positions, dtype=torch.float16):
    positions = torch.as_tensor(positions, dtype=torch.int64)
    return SparseDelta(Mask(tuple(shape), positions), some_values(len(positions), 0, dtype))


def same(found, wanted):
    """Assert that two deltas are equal to the bit; return True."""
    struct, other = found.mask.struct, wanted.mask.struct
    assert found.shape == wanted.shape
    assert torch.equal(found.positions, wanted.positions)
    assert found.values.dtype == wanted.values.dtype
    assert torch.equal(found.values, wanted.values)
    assert (struct is None) == (other is None)
    if struct and other:
        assert torch.equal(struct.rows, other.rows)
        assert torch.equal(struct.columns, other.columns)
        assert struct.diagonal == other.diagonal
    return True


def round_trip(path, weights, **fields):
    path.unlink(missing_ok=True)
    back = load(adapter(weights, **fields).save(path))
    assert sorted(back.weights) == sorted(weights)
    assert all(same(back.weights[name], delta) for name, delta in weights.items())
    assert back.entries == sum(delta.count for delta in weights.values())
    assert all(back.weights.shape(n) == d.shape for n, d in weights.items())
    return back


# ---- round trips ----
@pytest.fixture(scope="module")
def spot(tmp_path_factory):
    return tmp_path_factory.mktemp("files") / "a.shira"


@FAST
@given(data=st.data())
def test_unstructured_round_trip(spot, data):
    shape = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple))
    chosen = data.draw(st.sets(st.integers(0, math.prod(shape) - 1), min_size=1))
    delta = delta_of(shape, sorted(chosen), data.draw(st.sampled_from(DTYPES)))
    round_trip(spot, {"w": delta})


@FAST
@given(data=st.data())
def test_struct_round_trip(spot, data):
    shape = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=5).map(tuple))
    rows = sorted(data.draw(st.sets(st.integers(0, shape[0] - 1))))
    columns = sorted(data.draw(st.sets(st.integers(0, shape[1] - 1))))
    diagonal = data.draw(st.booleans()) or not (rows or columns)
    dtype = data.draw(st.sampled_from(DTYPES))
    round_trip(spot, {"w": struct_delta(shape, rows, columns, diagonal, dtype)})


@pytest.mark.parametrize(
    "positions",
    [
        [0],
        [16_777_215],
        [0, 16_777_215],
        list(range(5000)),
        [*range(100, 400), *range(8_000_000, 8_000_300), 16_000_000],
        [3, 8_000_000, 8_000_001, 16_777_214],
    ],
    ids=["first", "last", "both ends", "dense run", "dense runs far apart", "huge gaps"],
)
def test_gaps_of_any_length(spot, positions):
    round_trip(spot, {"w": delta_of((4096, 4096), positions)})


def test_the_largest_weight(spot):
    """The last of 2^32 positions: beyond 32 bits, and bounded in memory."""
    back = round_trip(spot, {"w": delta_of((1 << 16, 1 << 16), [0, 1 << 31, (1 << 32) - 1])})
    assert back.weights["w"].positions.tolist() == [0, 1 << 31, (1 << 32) - 1]


@pytest.mark.parametrize(("shape", "rows", "columns", "diagonal"), STRUCTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_struct_masks_of_the_table(spot, shape, rows, columns, diagonal, dtype):
    round_trip(spot, {"w": struct_delta(shape, rows, columns, diagonal, dtype)})


def test_dtypes_and_masks_mix_in_one_file(spot):
    round_trip(spot, dict(mixed_adapter().weights))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_saving_in_another_dtype(tmp_path, dtype):
    weights = mixed_adapter().weights
    back = load(adapter(weights).save(tmp_path / "a.shira", dtype=dtype))
    for name, delta in weights.items():
        assert torch.equal(back.weights[name].values, delta.values.to(dtype))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("density", [0.0001, 0.02, 0.5, 1.0])
def test_positions_are_decoded_on_the_gpu_as_on_the_cpu(tmp_path, density):
    weights = {f"w{n}": random_delta((n, 999), density, n, DTYPES[n % 3]) for n in (1, 40, 700)}
    weights |= dict(mixed_adapter().weights)
    back = load(adapter(weights).save(tmp_path / "a.shira"))
    for name, delta in weights.items():
        found = back.weights.read(name, "cuda")
        assert found.positions.device.type == found.values.device.type == "cuda"
        same(found.to("cpu"), delta)


def test_a_weight_without_entries_is_left_out(tmp_path):
    weights = {"w": random_delta((4, 5), 0.5, 1), "none": delta_of((4, 5), [])}
    assert list(load(adapter(weights).save(tmp_path / "a.shira")).weights) == ["w"]


# ---- the header ----
FULL = {
    "architecture": "sdxl",
    "base": "Modell äöü \u6a21\u578b",
    "base_sha256": "ab" * 32,
    "prediction_type": "v_prediction",
    "mask": "wm",
    "density": 0.02,
    "seed": -5,
    "triggers": ("tinte \u58a8", 'ink, "style"'),
    "title": "Tüsche\n\U0001f58b",
    "author": "\u05d0",
    "description": "line\nbreak \\ \t tab \x7f \u2028",
    "license": "CC-BY-4.0",
    "tags": ("a", "b"),
    "training": {"steps": 300, "rates": [1e-4, 0.5], "nested": {"x": None, "y": [True, "é"]}},
    "extra": {"ss_tag_frequency": '{"a":1}', "modelspec.thumbnail": "data:,é", "own key": ""},
}


@pytest.mark.parametrize("fields", [{}, {"seed": 0, "density": 1}, FULL], ids=["bare", "0", "full"])
def test_header_round_trip(tmp_path, fields):
    header = Header(**fields)
    weights = MemoryWeights({"w": random_delta((4, 5), 0.5, 1)})
    first = load(Adapter(header, weights).save(tmp_path / "a.shira"))
    assert first.header == header
    assert load(first.save(tmp_path / "b.shira")).header == header
    assert (tmp_path / "a.shira").read_bytes() == (tmp_path / "b.shira").read_bytes()


def metadata(path):
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata()


def test_what_other_programs_read(tmp_path):
    path = mixed_adapter(**FULL).save(tmp_path / "a.safetensors")
    found = metadata(path)
    assert found["modelspec.sai_model_spec"] == "1.0.1"
    assert found["modelspec.architecture"] == "stable-diffusion-xl-v1-base/shira"
    assert found["modelspec.title"] == FULL["title"]
    assert found["modelspec.prediction_type"] == "v"
    assert found["modelspec.trigger_phrase"] == 'tinte \u58a8, ink, "style"'
    assert found["ss_base_model_version"] == "sdxl_base_v1-0"
    assert found["format"] == "pt"
    assert FULL["extra"].items() <= found.items()


def test_a_changed_title_changes_what_other_programs_read(tmp_path):
    first = load(mixed_adapter(title="old", author="me").save(tmp_path / "a.shira"))
    second = Adapter(Header(title="new", extra=first.header.extra), first.weights)
    found = metadata(second.save(tmp_path / "b.shira"))
    assert found["modelspec.title"] == "new"
    assert "modelspec.author" not in found


def test_the_hash_is_that_of_the_data(tmp_path):
    path = mixed_adapter().save(tmp_path / "a.shira")
    raw = path.read_bytes()
    data = raw[8 + int.from_bytes(raw[:8], "little") :]
    assert metadata(path)["sshs_model_hash"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("length", [0x480, 0x580, 0x10280, 0x4B50])
def test_a_header_of_any_length_is_read(tmp_path, length):
    """The first bytes of these files are those of a pickle or a zip archive."""
    weights = {"w": random_delta((4, 5), 0.5, 1)}
    path = adapter(weights, extra={"x": ""}).save(tmp_path / "a.shira")
    data_start, _ = data_range(path, "w.values")
    missing = length - len(path.read_bytes()[8:data_start].rstrip())
    path = adapter(weights, extra={"x": "x" * missing}).save(path, overwrite=True)
    assert int.from_bytes(path.read_bytes()[:8], "little") == length
    assert load(path).entries == 10


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"description": "x" * (1 << 20)}, "bytes, and 1048576 is the limit"),
        ({"extra": {"thumbnail": "x" * (1 << 20)}}, "is the limit"),
        ({"density": float("nan")}, "JSON"),
        ({"density": float("inf")}, "JSON"),
        ({"density": 2.0}, "'density'"),
        ({"seed": 1 << 64}, "'seed'"),
        ({"seed": 0.5}, "'seed'"),
        ({"title": 5}, "not text"),
        ({"base_sha256": 5}, "'base_sha256'"),
        ({"title": "\ud800"}, "JSON"),
        ({"triggers": "ink"}, "'triggers'"),
        ({"training": {"x": torch.zeros(1)}}, "JSON"),
        ({"training": {"x": float("-inf")}}, "JSON"),
        ({"training": [1]}, "'training'"),
        ({"extra": {"x": 5}}, "not text"),
    ],
)
def test_header_that_a_reader_would_refuse_is_not_written(tmp_path, fields, reason):
    with pytest.raises(InvalidValue, match=reason):
        mixed_adapter(**fields).save(tmp_path / "a.shira")
    assert not list(tmp_path.iterdir())


def test_training_nested_too_deeply_is_not_written(tmp_path):
    deep = {}
    for _ in range(20):
        deep = {"x": deep}
    with pytest.raises(InvalidValue, match="nested too deeply"):
        mixed_adapter(training=deep).save(tmp_path / "a.shira")


# ---- deltas that a reader would refuse ----
def with_values(values):
    values = torch.tensor(values)
    return SparseDelta(Mask((4, 5), torch.arange(len(values))), values)


@pytest.mark.parametrize(
    ("delta", "reason"),
    [
        (with_values([1.0, float("nan")]), "no finite"),
        (with_values([float("inf")]), "no finite"),
        (delta_of((4, 5), [3, 2]), "unsorted"),
        (delta_of((4, 5), [3, 3]), "repeated"),
        (delta_of((4, 5), [3, 20]), "outside"),
        (delta_of((4, 5), [-1, 3]), "outside"),
        (delta_of((4, 5), [0, 2**63 - 1, -(2**63), 5]), "unsorted"),
        (SparseDelta(Mask((4, 5), torch.arange(3)), torch.ones(2)), "positions"),
        (SparseDelta(Mask((4, 5), torch.arange(2).int()), torch.ones(2)), "int64"),
        (SparseDelta(Mask((2, 2), torch.eye(2).long()), torch.ones(2, 2)), "one vector"),
        (SparseDelta(Mask((4, 5), torch.arange(2)), torch.ones(2).double()), "float64"),
        (SparseDelta(Mask((4, 5), torch.arange(2)), torch.ones(2).int()), "int32"),
        (SparseDelta(Mask((), torch.arange(1)), torch.ones(1)), "shape"),
        (SparseDelta(Mask((1,) * 9, torch.arange(1)), torch.ones(1)), "shape"),
        (SparseDelta(Mask((1 << 25,), torch.arange(1)), torch.ones(1)), "shape"),
    ],
)
def test_deltas_that_are_not_written(tmp_path, delta, reason):
    with pytest.raises(InvalidValue, match=reason):
        adapter({"w": delta}).save(tmp_path / "a.shira")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("rows", "columns"),
    [([2, 1], []), ([1, 1], []), ([4], []), ([-1], []), ([], [1, 0]), ([0], [])],
)
def test_struct_masks_that_do_not_give_the_positions_are_not_written(tmp_path, rows, columns):
    good = struct_delta((4, 5), [1, 2], [], False)
    lines = Struct(torch.tensor(rows).long(), torch.tensor(columns).long(), False)
    bad = SparseDelta(Mask(good.shape, good.positions, lines), good.values)
    with pytest.raises(InvalidValue, match="rows and columns"):
        adapter({"w": bad}).save(tmp_path / "a.shira")


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[31m", "x" * 501, "\ud800"])
def test_names_that_are_not_written(tmp_path, name):
    with pytest.raises(InvalidValue):
        adapter({name: random_delta((4, 5), 0.5, 1)}).save(tmp_path / "a.shira")


def test_an_empty_adapter_is_not_written(tmp_path):
    with pytest.raises(InvalidValue, match="nothing to write"):
        adapter({}).save(tmp_path / "a.shira")


def test_a_value_beyond_half_precision_names_the_way_out(tmp_path):
    big = adapter({"w": with_values([1e5])})
    with pytest.raises(InvalidValue, match=r"dtype=torch\.bfloat16"):
        big.save(tmp_path / "a.shira", dtype=torch.float16)
    assert load(big.save(tmp_path / "a.shira", dtype=torch.bfloat16)).entries == 1


# ---- laziness ----
def data_range(path, tensor):
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    begin, end = json.loads(raw[8 : 8 + length])[tensor]["data_offsets"]
    return 8 + length + begin, 8 + length + end


def spoil(path, tensor):
    """Overwrite a tensor's data with ones, which no value, position or row may be."""
    begin, end = data_range(path, tensor)
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(b"\xff" * (end - begin))


@pytest.mark.parametrize("spoilt", ["a.weight.values", "a.weight.gaps", "d.weight.rows"])
def test_reading_a_weight_touches_its_own_bytes_only(tmp_path, spoilt):
    path = mixed_adapter().save(tmp_path / "a.shira")
    spoil(path, spoilt)
    back = load(path)
    for name, delta in mixed_adapter().weights.items():
        if spoilt.startswith(name):
            with pytest.raises(FileInvalid, match=name):
                back.weights[name]
        else:
            same(back.weights[name], delta)


def test_loading_reads_the_header_only(tmp_path):
    path = mixed_adapter(title="t").save(tmp_path / "a.shira")
    begin, _ = data_range(path, "b.weight.values")
    raw = path.read_bytes()
    path.write_bytes(raw[:begin] + b"\xff" * (len(raw) - begin))
    back = load(path)
    assert back.header.title == "t"
    assert back.entries == mixed_adapter().entries
    with pytest.raises(FileInvalid):
        back.weights["b.weight"]


def test_no_file_stays_open(tmp_path):
    path = mixed_adapter().save(tmp_path / "a.shira")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    back = load(path)
    deltas = [back.weights[name] for name in back.weights]
    after = len(os.listdir("/proc/self/fd")) if before else 0
    assert len(deltas) == 5
    assert before == after


def test_a_file_that_was_replaced_is_noticed(tmp_path):
    path = mixed_adapter().save(tmp_path / "a.shira")
    back = load(path)
    status = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(FileInvalid, match="changed after it was loaded: load it again"):
        back.weights["a.weight"]
    path.unlink()
    with pytest.raises(FileInvalid, match="cannot be read"):
        back.weights["a.weight"]


def test_an_adapter_can_be_saved_over_its_own_file(tmp_path):
    path = mixed_adapter().save(tmp_path / "a.shira")
    raw = path.read_bytes()
    load(path).save(path, overwrite=True)
    assert path.read_bytes() == raw


# ---- other readers ----
def test_the_twin_is_the_same_adapter(tmp_path):
    twin = mixed_adapter(title="t").save(tmp_path / "a.safetensors")
    path = mixed_adapter(title="t").save(tmp_path / "a.shira")
    assert twin.read_bytes() == path.read_bytes()
    assert load(twin).header == load(path).header


def test_the_safetensors_library_opens_it(tmp_path):
    path = mixed_adapter().save(tmp_path / "a.shira")
    whole = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        lazy = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert set(whole) == set(lazy)
    for name, delta in mixed_adapter().weights.items():
        for found in (whole, lazy):
            assert torch.equal(found[f"{name}.values"], delta.values)
    assert whole["d.weight.rows"].tolist() == [3]
    assert whole["d.weight.columns"].tolist() == [1, 4]


def test_a_copy_written_by_the_safetensors_library_is_read(tmp_path):
    path = mixed_adapter(title="t").save(tmp_path / "a.shira")
    copy = tmp_path / "copy.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(path), copy, metadata(path))
    back = load(copy)
    assert back.header.title == "t"
    assert all(same(back.weights[name], delta) for name, delta in mixed_adapter().weights.items())


# ---- sizes ----
@pytest.mark.parametrize("density", [0.01, 0.02])
@pytest.mark.parametrize(("struct", "limit"), [(False, 3.1), (True, 2.05)])
def test_bytes_per_entry(tmp_path, density, struct, limit):
    """Twenty SDXL attention weights with their real names, the whole file counted."""
    columns = list(range(0, 1280, int(1 / density) + 1))
    weights = {}
    for i in range(20):
        block = f"model.diffusion_model.output_blocks.0.1.transformer_blocks.{i // 4}"
        weights[f"{block}.attn1.to_{'qkvo'[i % 4]}.weight"] = (
            struct_delta((1280, 1280), [], columns, True)
            if struct
            else random_delta((1280, 1280), density, seed=i)
        )
    saved = adapter(weights, **FULL)
    assert saved.save(tmp_path / "a.shira").stat().st_size / saved.entries <= limit

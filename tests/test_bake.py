"""Merged checkpoints: against dense arithmetic, byte for byte elsewhere, and with little memory."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors
import torch
from adapters import random_adapter
from safetensors.torch import load_file, save_file

import shira_core as shira
from shira_core import errors
from shira_core.cli import main

IN4 = "model.diffusion_model.input_blocks.4.1.proj.weight"
MID = "model.diffusion_model.middle_block.0.in_layers.2.weight"
TEXT = "cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc1.weight"
SHAPES = {IN4: (24, 40), MID: (8, 12, 3, 3), TEXT: (30, 10)}
DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]


def model(dtype=torch.float16):
    generator = torch.Generator().manual_seed(7)
    weights = {n: torch.randn(s, generator=generator).to(dtype) for n, s in SHAPES.items()}
    return weights | {
        "model.diffusion_model.out.0.bias": torch.randn(50, generator=generator),
        "cond_stage_model.position_ids": torch.arange(77),
        "scalar": torch.tensor(3.0),
        "none": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
    }


@pytest.fixture
def base(tmp_path):
    return checkpoint(tmp_path, torch.float16)


def checkpoint(folder, dtype):
    path = folder / "base.safetensors"
    metadata = {"format": "pt", "own": "kept \u00e9", "sshs_model_hash": "stale"}
    save_file(model(dtype), path, metadata)
    return path


def adapters(folder, count=3):
    """Return adapters on different layers, with different masks and dtypes, in files."""
    kinds = [
        {"mask": "rand", "dtype": torch.float16},
        {"mask": "struct", "dtype": torch.bfloat16},
        {"mask": "rand", "dtype": torch.float32},
    ]
    names = [list(SHAPES), [IN4, MID], [MID, TEXT]]
    made = []
    for number in range(count):
        shapes = {name: SHAPES[name] for name in names[number]}
        adapter = random_adapter(
            shapes, number + 1, density=0.2, **kinds[number], title=f"a{number}"
        )
        made.append(shira.load(adapter.save(folder / f"a{number}.shira", overwrite=True)))
    return made


def tensors(path):
    with safetensors.safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def dense(weight, addends):
    """W + sum(alpha * delta) by dense numpy arithmetic in float32 (float64), rounded once."""
    wide = np.float64 if weight.dtype == torch.float64 else np.float32
    kind = torch.float64 if wide is np.float64 else torch.float32
    total = np.zeros(weight.shape, wide)
    for delta, alpha in addends:
        flat = np.zeros(math.prod(weight.shape), wide)
        flat[delta.positions.numpy()] = delta.values.to(kind).numpy() * wide(alpha)
        total += flat.reshape(weight.shape)
    return torch.from_numpy(total + weight.to(kind).numpy()).to(weight.dtype)


def bits(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8).tolist() if tensor.numel() else []


def same(found, wanted):
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert bits(found[name].reshape(-1)) == bits(tensor.reshape(-1)), name


# ---- the result ----
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("alphas", [(1.0,), (0.8, -0.3), (0.0, 1.5)], ids=str)
def test_equals_dense_arithmetic_in_every_dtype(tmp_path, dtype, alphas):
    base, stack = checkpoint(tmp_path, dtype), adapters(tmp_path, len(alphas))
    out = shira.bake(base, tmp_path / "out.safetensors", list(zip(stack, alphas, strict=True)))
    wanted = model(dtype)
    for name in SHAPES:
        addends = [
            (adapter.weights[name], alpha)
            for adapter, alpha in zip(stack, alphas, strict=True)
            if name in adapter.weights
        ]
        wanted[name] = dense(wanted[name], addends)
    same(tensors(out), wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_the_stack_in_memory(tmp_path, dtype):
    base, stack = checkpoint(tmp_path, dtype), adapters(tmp_path)
    alphas = [
        shira.Alpha(0.8, {"te": 0.5}, {"mid": 0.0}),
        shira.Alpha(0.5, {}, {"in4": 2.0}),
        shira.Alpha(-1.0, {"te1": 0.25}),
    ]
    out = shira.bake(base, tmp_path / "out.safetensors", list(zip(stack, alphas, strict=True)))
    wanted = model(dtype)
    shira.apply(wanted, list(zip(stack, alphas, strict=True)))
    same(tensors(out), wanted)


def test_components_and_blocks_scale_what_they_name(tmp_path, base):
    (adapter,) = adapters(tmp_path, 1)
    alpha = shira.Alpha(0.8, {"te": 0.5}, {"mid": 0.0})
    found = tensors(shira.bake(base, tmp_path / "out.safetensors", [(adapter, alpha)]))
    before = model()
    assert torch.equal(found[MID], before[MID])
    for name, factor in ((IN4, 0.8), (TEXT, 0.5)):
        assert torch.equal(found[name], dense(before[name], [(adapter.weights[name], factor)]))


def test_the_order_of_adapters_changes_nothing(tmp_path, base):
    stack = list(zip(adapters(tmp_path), (0.8, 0.3, -0.7), strict=True))
    orders = [(0, 1, 2), (2, 1, 0), (1, 2, 0)]
    files = [
        shira.bake(base, tmp_path / f"out{i}.safetensors", [stack[j] for j in order])
        for i, order in enumerate(orders)
    ]
    first = load_file(files[0])
    for file in files[1:]:
        same(load_file(file), first)


def test_nothing_but_the_entries_changes(tmp_path, base):
    """Names, order, offsets and all other bytes are those of the checkpoint."""
    stack = adapters(tmp_path, 2)
    out = shira.bake(base, tmp_path / "out.safetensors", [(a, 0.5) for a in stack])
    headers, data = zip(*map(take_apart, (base, out)), strict=True)
    metadata = [header.pop("__metadata__") for header in headers]
    assert list(headers[0].items()) == list(headers[1].items())
    changed = np.frombuffer(data[0], np.uint8) != np.frombuffer(data[1], np.uint8)
    allowed = np.zeros(len(changed), bool)
    for adapter in stack:
        for name in adapter.weights:
            begin = headers[0][name]["data_offsets"][0]
            for byte in (0, 1):
                allowed[begin + 2 * adapter.weights[name].positions.numpy() + byte] = True
    assert changed.any()
    assert not (changed & ~allowed).any()
    assert metadata[1]["own"] == "kept \u00e9"


def take_apart(path):
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def metadata(path):
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata()


def test_the_metadata_tells_what_was_added(tmp_path, base):
    first, second = adapters(tmp_path, 2)
    alpha = shira.Alpha(0.8, {"te": 0.5}, {"mid": 0.0})
    once = shira.bake(base, tmp_path / "once.safetensors", [(first, alpha)])
    twice = shira.bake(once, tmp_path / "twice.safetensors", [(second, 0.25)])
    told = [
        {
            "adapter": "a0.shira",
            "alpha": 0.8,
            "components": {"te": 0.5},
            "blocks": {"mid": 0.0},
        },
        {"adapter": "a1.shira", "alpha": 0.25, "components": {}, "blocks": {}},
    ]
    assert json.loads(metadata(once)["shira.baked"]) == told[:1]
    assert json.loads(metadata(twice)["shira.baked"]) == told
    assert "sshs_model_hash" not in metadata(once)
    assert metadata(twice)["own"] == "kept \u00e9"


def test_a_file_may_be_baked_into_itself(tmp_path, base):
    (adapter,) = adapters(tmp_path, 1)
    out = shira.bake(base, tmp_path / "out.safetensors", [(adapter, 0.5)])
    shira.bake(base, base, [(adapter, 0.5)], overwrite=True)
    same(load_file(base), load_file(out))


def test_progress_counts_to_the_end(tmp_path, base):
    steps = []
    shira.bake(
        base,
        tmp_path / "out.safetensors",
        [(adapters(tmp_path, 1)[0], 1.0)],
        progress=lambda done, total: steps.append((done, total)),
    )
    data = len(take_apart(base)[1])
    assert steps == sorted(steps)
    assert steps[-1] == (data, data)


# ---- the command ----
def test_the_command_reads_alphas(tmp_path, base, capsys):
    stack = adapters(tmp_path, 2)
    out, wanted = tmp_path / "out.safetensors", tmp_path / "wanted.safetensors"
    given = [f"{stack[0].path}:0.8,te=0.5,mid=0", f"{stack[1].path}"]
    assert main(["bake", str(base), str(out), *given]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {out} (")
    alpha = shira.Alpha(0.8, {"te": 0.5}, {"mid": 0.0})
    shira.bake(base, wanted, [(stack[0], alpha), (stack[1], 1.0)])
    assert out.read_bytes() == wanted.read_bytes()


@pytest.mark.parametrize("alpha", ["0.8,", "0.8x", "0.8,foo=1", "0.8,te=", "-inf", "1,unet=nan"])
def test_the_command_refuses_other_alphas(tmp_path, base, capsys, alpha):
    out = tmp_path / "out.safetensors"
    path = adapters(tmp_path, 1)[0].path
    assert main(["bake", str(base), str(out), f"{path}:{alpha}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("shira: ")
    assert not out.exists()


# ---- errors ----
def refuses(error, match, base, folder, adapter, alpha=1.0):
    before = sorted(folder.iterdir())
    with pytest.raises(error, match=match):
        shira.bake(base, folder / "out.safetensors", [(adapter, alpha)])
    assert sorted(folder.iterdir()) == before


def test_a_quantised_weight_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "base.safetensors"
    save_file(model() | {MID: torch.ones(SHAPES[MID], dtype=torch.int8)}, path)
    (adapter,) = adapters(tmp_path, 1)
    refuses(
        errors.FileInvalid, "is stored as I8: this checkpoint is quantised", path, tmp_path, adapter
    )


def test_a_truncated_checkpoint_is_refused(tmp_path, base):
    (adapter,) = adapters(tmp_path, 1)
    base.write_bytes(base.read_bytes()[:-3])
    refuses(errors.FileInvalid, "cut short or damaged, get it again", base, tmp_path, adapter)


def test_a_model_without_the_weight_is_refused(tmp_path, base):
    adapter = random_adapter({"model.diffusion_model.none.weight": (3, 3)}, 1)
    refuses(errors.WeightMissing, "the model has no weight", base, tmp_path, adapter)


def test_a_weight_of_another_shape_is_refused(tmp_path, base):
    adapter = random_adapter({IN4: (24, 44)}, 1)
    refuses(
        errors.ShapeMismatch, "24x44 in the adapter and 24x40 in the model", base, tmp_path, adapter
    )


def test_numbers_beyond_the_dtype_are_refused(tmp_path, base):
    (adapter,) = adapters(tmp_path, 1)
    refuses(errors.InvalidValue, "leaves the range of torch.float16", base, tmp_path, adapter, 1e6)


def test_a_damaged_adapter_is_refused(tmp_path, base):
    (adapter,) = adapters(tmp_path, 1)
    raw = bytearray(adapter.path.read_bytes())
    raw[-40:] = b"\xff" * 40
    adapter.path.write_bytes(raw)
    refuses(errors.FileInvalid, "get it again", base, tmp_path, shira.load(adapter.path))


def test_an_output_that_exists_stays(tmp_path, base):
    (adapter,) = adapters(tmp_path, 1)
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"old")
    refuses(errors.FileExists, "add --overwrite", base, tmp_path, adapter)
    assert out.read_bytes() == b"old"
    shira.bake(base, out, [(adapter, 1.0)], overwrite=True)
    assert len(load_file(out)) == len(model())


# ---- in a process of its own ----
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and usage")
MIB = 1 << 20
WIDE = (6144, 8192)  # 96 MB as float16


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return a checkpoint of four 96 MB tensors, an adapter of 1 % of two of them, and a folder."""
    folder = tmp_path_factory.mktemp("large")
    tensor = torch.full(WIDE, 0.5, dtype=torch.float16)
    save_file({f"w{i}": tensor.clone() for i in range(4)}, folder / "base.safetensors")
    random_adapter({"w0": WIDE, "w2": WIDE}, 1, density=0.01).save(folder / "a.shira")
    yield folder
    for path in folder.iterdir():
        path.unlink()


PEAK = """
import resource, sys
import shira_core as shira
from shira_core import baking, file
unit = 1 if sys.platform == "darwin" else 1024
adapter = shira.load(sys.argv[2])
adapter.weights.read("w0")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
shira.bake(sys.argv[1], sys.argv[3], [(adapter, 0.8)])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before)
"""


@POSIX
def test_memory_is_that_of_the_largest_tensor(large):
    out = large / "out.safetensors"
    command = [sys.executable, "-c", PEAK, large / "base.safetensors", large / "a.shira", out]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=quiet())
    tensor, adapter = 2 * math.prod(WIDE), (large / "a.shira").stat().st_size
    assert int(done.stdout) < 1.5 * tensor + adapter
    delta = shira.load(large / "a.shira").weights["w2"]
    with safetensors.safe_open(out, "pt") as file:
        found = file.get_tensor("w2")
    wanted = torch.full((delta.count,), 0.5) + delta.values.float() * 0.8
    assert torch.equal(found.view(-1)[delta.positions], wanted.half())
    assert int((found != 0.5).sum()) <= delta.count
    out.unlink()


@POSIX
def test_ctrl_c_leaves_nothing(large):
    out = large / "stopped.safetensors"
    command = [sys.executable, "-m", "shira_core.cli", "bake", large / "base.safetensors", out]
    process = subprocess.Popen(
        [*command, large / "a.shira"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=quiet()
    )
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size > 8 * MIB for p in large.glob(".*.tmp")):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    printed, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (printed, complaint) == (b"", b"shira: stopped; nothing was written\n")
    assert sorted(p.name for p in large.iterdir()) == ["a.shira", "base.safetensors"]


def quiet():
    return os.environ | {"OMP_NUM_THREADS": "1"}

"""Mixed adapters: against dense sums, and against the stack that they replace."""

import json
from dataclasses import replace

import pytest
import torch
from adapters import random_adapter

import shira_core as shira
from shira_core import errors
from shira_core.cli import main
from shira_core.mask import Mask, SparseDelta

IN4 = "model.diffusion_model.input_blocks.4.1.proj.weight"
MID = "model.diffusion_model.middle_block.0.in_layers.2.weight"
TEXT = "cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc1.weight"
SHAPES = {IN4: (24, 40), MID: (8, 12, 3, 3), TEXT: (30, 10)}
DTYPES = [torch.float16, torch.bfloat16, torch.float32]
EPSILON = {dtype: torch.finfo(dtype).eps for dtype in DTYPES}


def adapters(dtype=torch.float16):
    """Return three adapters that share some layers and entries."""
    names = [list(SHAPES), [IN4, MID], [MID, TEXT]]
    return [
        random_adapter(
            {name: SHAPES[name] for name in chosen},
            seed,
            density=0.3,
            mask="struct" if seed == 1 else "rand",
            dtype=dtype,
            scale=0.1,
            architecture="sd15",
            title=f"t{seed}",
            triggers=(f"word{seed}", "shared"),
        )
        for seed, chosen in enumerate(names)
    ]


def stack(count, dtype=torch.float16):
    alphas = [0.8, -0.5, shira.Alpha(0.3, {"te": 2.0}, {"mid": 0.5})]
    return list(zip(adapters(dtype)[:count], alphas, strict=False))


def alpha_of(alpha, name):
    """What an alpha means for a weight, spelled out for the alphas above."""
    if isinstance(alpha, float):
        return alpha
    return {TEXT: 2.0, MID: 0.15, IN4: 0.3}[name]


def dense_sum(pairs, name):
    parts = [
        adapter.weights[name].dense().double() * alpha_of(alpha, name)
        for adapter, alpha in pairs
        if name in adapter.weights
    ]
    return sum(parts)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_equals_the_dense_sum(dtype, count):
    pairs = stack(count, dtype)
    mixed = shira.mix(pairs)
    assert set(mixed.weights) == {name for adapter, _ in pairs for name in adapter.weights}
    for name in mixed.weights:
        wanted, found = dense_sum(pairs, name), mixed.weights[name]
        assert found.values.dtype == dtype
        assert torch.allclose(found.dense().double(), wanted, rtol=EPSILON[dtype], atol=1e-5)
        touched = sum(
            adapter.weights[name].mask.dense().int()
            for adapter, _ in pairs
            if name in adapter.weights
        )
        assert torch.equal(found.mask.dense(), touched > 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_applying_the_mix_is_applying_the_stack(dtype):
    pairs = stack(3, dtype)
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    one, many = ({name: w.clone() for name, w in base.items()} for _ in range(2))
    shira.apply(one, [(shira.mix(pairs), 1.0)])
    shira.apply(many, pairs)
    for name, weight in base.items():
        change = (many[name] - weight).abs().max()
        assert change > 0
        assert (one[name] - many[name]).abs().max() <= EPSILON[dtype] * change + 1e-6


def test_one_adapter_at_alpha_1_stays_what_it_is():
    (adapter,) = adapters()[:1]
    mixed = shira.mix([(adapter, 1.0)])
    for name in adapter.weights:
        assert torch.equal(mixed.weights[name].positions, adapter.weights[name].positions)
        assert torch.equal(mixed.weights[name].values, adapter.weights[name].values)


def test_the_order_of_adapters_changes_nothing():
    pairs = stack(3)
    first = shira.mix(pairs)
    for order in ((1, 0, 2), (2, 1, 0), (1, 2, 0)):
        other = shira.mix([pairs[i] for i in order])
        for name in first.weights:
            assert torch.equal(other.weights[name].positions, first.weights[name].positions)
            assert torch.equal(other.weights[name].values, first.weights[name].values)


def test_the_widest_dtype_is_kept():
    half, full = adapters(torch.float16)[0], adapters(torch.float32)[1]
    bfloat = adapters(torch.bfloat16)[1]
    for pair, wanted in (((half, full), torch.float32), ((half, bfloat), torch.float32)):
        mixed = shira.mix([(adapter, 1.0) for adapter in pair])
        assert mixed.weights[IN4].values.dtype == wanted
        assert mixed.weights[TEXT].values.dtype == torch.float16
    narrow = shira.mix([(half, 1.0), (full, 1.0)], dtype=torch.bfloat16)
    assert {narrow.weights[name].values.dtype for name in narrow.weights} == {torch.bfloat16}


def test_the_inputs_stay():
    pairs = stack(3)
    before = [
        {name: adapter.weights[name].values.clone() for name in adapter.weights}
        for adapter, _ in pairs
    ]
    shira.mix(pairs)
    for (adapter, _), values in zip(pairs, before, strict=True):
        assert all(torch.equal(adapter.weights[name].values, values[name]) for name in values)


# ---- the header ----
def test_the_header_tells_where_it_comes_from(tmp_path):
    pairs = stack(3)
    saved = [
        (shira.load(a.save(tmp_path / f"{i}.shira")), alpha) for i, (a, alpha) in enumerate(pairs)
    ]
    header = shira.mix(saved).header
    assert header.architecture == "sd15"
    assert header.mask == "mix"
    assert header.triggers == ("word0", "shared", "word1", "word2")
    assert header.title == "t0 + t1 + t2"
    assert header.training["mode"] == "sum"
    assert header.training["mixed"] == [
        {"alpha": 0.8, "title": "t0", "file": "0.shira"},
        {"alpha": -0.5, "title": "t1", "file": "1.shira"},
        {
            "alpha": 0.3,
            "title": "t2",
            "file": "2.shira",
            "components": {"te": 2.0},
            "blocks": {"mid": 0.5},
        },
    ]


def test_a_mix_of_a_mix_tells_all_that_it_was_mixed_from(tmp_path, capsys):
    first, second, third = adapters()
    fields = {"author": "me", "license": "CC0", "training": {"steps": 300}}
    first = replace(first, header=replace(first.header, **fields))
    inner = shira.load(
        shira.mix([(first, 0.8), (second, 0.5)], "ties", title="both").save(tmp_path / "b.shira")
    )
    path = shira.mix([(inner, 0.5), (third, 1.0)]).save(tmp_path / "all.shira")
    assert shira.load(path).header.training == {
        "mode": "sum",
        "mixed": [
            {
                "alpha": 0.5,
                "title": "both",
                "file": "b.shira",
                "training": {
                    "mode": "ties",
                    "mixed": [
                        {"alpha": 0.8, "title": "t0", **fields},
                        {"alpha": 0.5, "title": "t1"},
                    ],
                },
            },
            {"alpha": 1.0, "title": "t2"},
        ],
    }
    assert main(["info", str(path)]) == 0
    shown = "mixed 0.5 both b.shira (0.8 t0 me CC0 + 0.5 t1) + 1.0 t2, mode sum"
    assert shown in capsys.readouterr().out


def test_mixes_of_mixes_without_end_stay_files(tmp_path):
    mixed = adapters()[0]
    for number in range(9):
        path = shira.mix([(mixed, 1.0), (adapters()[1], 0.1)]).save(tmp_path / f"{number}.shira")
        mixed = shira.load(path)
    found, files = mixed.header.training, []
    while found.get("mixed"):
        files.append(found["mixed"][0]["file"])
        found = found["mixed"][0]["training"]
    assert files == ["7.shira", "6.shira", "5.shira", "4.shira"]


@pytest.mark.parametrize(("licenses", "wanted"), [(["CC0", "CC0"], "CC0"), (["CC0", "MIT"], "")])
def test_a_license_that_all_have_stays(licenses, wanted):
    made = [random_adapter({IN4: (3, 3)}, i, license=text) for i, text in enumerate(licenses)]
    assert shira.mix([(adapter, 1.0) for adapter in made]).header.license == wanted


def test_the_density_is_that_of_the_result():
    mixed = shira.mix(stack(3))
    cells = sum(delta.mask.dense().numel() for delta in mixed.weights.values())
    assert mixed.header.density == pytest.approx(mixed.entries / cells)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ([{"architecture": "unknown"}, {"architecture": "sdxl"}], ("sdxl", "")),
        ([{"architecture": "unknown"}, {}], ("unknown", "")),
        ([{"base": "m"}, {"base": "m"}], ("unknown", "m")),
        ([{"base": "m"}, {"base": "n"}], ("unknown", "")),
    ],
)
def test_what_all_adapters_share_stays(fields, wanted):
    made = [random_adapter({IN4: SHAPES[IN4]}, i, **more) for i, more in enumerate(fields)]
    header = shira.mix([(adapter, 1.0) for adapter in made]).header
    assert (header.architecture, header.base) == wanted


# ---- errors ----
def test_architectures_do_not_mix():
    made = [random_adapter({IN4: (3, 3)}, 0, architecture=kind) for kind in ("sd15", "sdxl")]
    with pytest.raises(errors.ArchitectureMismatch, match=r"SD1\.5 and SDXL cannot be mixed"):
        shira.mix([(adapter, 1.0) for adapter in made])


def test_shapes_do_not_mix():
    made = [random_adapter({IN4: shape}, 0) for shape in ((3, 4), (3, 5))]
    with pytest.raises(errors.ShapeMismatch, match=r"\(3, 4\) in one adapter and \(3, 5\)"):
        shira.mix([(adapter, 1.0) for adapter in made])


@pytest.mark.parametrize(
    ("pairs", "mode", "reason"),
    [
        ([], "sum", "nothing to mix"),
        (stack(1), "average", "mode 'average' is unknown: choose one of sum"),
        ([(adapters()[0], float("nan"))], "sum", "not a finite number"),
    ],
)
def test_requests_that_make_no_sense(pairs, mode, reason):
    with pytest.raises(errors.InvalidValue, match=reason):
        shira.mix(pairs, mode)


def test_sums_beyond_the_dtype_are_refused():
    delta = SparseDelta(Mask((2, 2), torch.arange(2)), torch.tensor([60000.0, 1.0]).half())
    adapter = shira.Adapter(shira.Header(), shira.MemoryWeights(w=delta))
    with pytest.raises(errors.InvalidValue, match=r"w leaves the range of torch\.float16: lower"):
        shira.mix([(adapter, 1.0), (adapter, 1.0)])
    assert shira.mix([(adapter, 2.0)], dtype=torch.float32).weights["w"].values[0] == 120_000.0


# ---- the command ----
def test_the_command_writes_the_mix(tmp_path, capsys):
    paths = [a.save(tmp_path / f"{i}.shira") for i, a in enumerate(adapters()[:2])]
    out = tmp_path / "both.shira"
    given = [f"{paths[0]}:0.8", f"{paths[1]}:-0.5,te=0.1"]
    assert main(["mix", *given, "-o", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {out} (")
    found = shira.load(out)
    alphas = [0.8, shira.Alpha(-0.5, {"te": 0.1})]
    wanted = shira.mix(list(zip(map(shira.load, paths), alphas, strict=True)))
    assert found.header.title == "both"
    for name in wanted.weights:
        assert torch.equal(found.weights[name].positions, wanted.weights[name].positions)
        assert torch.equal(found.weights[name].values, wanted.weights[name].values)
    assert main(["info", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training"]["mixed"][0]["alpha"] == 0.8

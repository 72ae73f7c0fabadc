"""An adapter from a fine-tuned model and its base, and the choice of entries that it rests on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from adapters import random_adapter
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import shira_core as shira
from shira_core import errors
from shira_core.cli import main
from shira_core.conversion.choice import SCOPES, Choice
from shira_core.conversion.difference import extract
from shira_core.conversion.select import Deltas, select

UNET = "model.diffusion_model."
VAE = "first_stage_model.decoder.conv_in.weight"
TEXT = "cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc1.weight"
SHAPES = {
    f"{UNET}input_blocks.4.1.proj_in.weight": (24, 40),
    f"{UNET}input_blocks.4.1.proj_in.bias": (24,),
    f"{UNET}middle_block.0.in_layers.2.weight": (8, 12, 3, 3),
    f"{UNET}out.0.weight": (16,),
    TEXT: (30, 10),
}
MATRICES = [name for name, shape in SHAPES.items() if len(shape) > 1]


def weights(seed: int = 0, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(s, generator=generator) * scale for name, s in SHAPES.items()}


def pair(folder: Path, dtype: torch.dtype = torch.float32, more=None) -> tuple[Path, Path]:
    """Write a tuned model and its base; `more` goes into the tuned one."""
    base, change = weights(), weights(1, 0.01)
    tuned = {name: (base[name].to(dtype).float() + change[name]).to(dtype) for name in base}
    save_file({name: value.to(dtype) for name, value in base.items()}, folder / "base.safetensors")
    save_file(tuned | (more or {}), folder / "tuned.safetensors")
    return folder / "tuned.safetensors", folder / "base.safetensors"


def same(a: Path, b: Path) -> bool:
    first, second = load_file(a), load_file(b)
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


# ---- there and back ----
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_all_entries_give_the_tuned_checkpoint_bit_for_bit(tmp_path, dtype):
    tuned, base = pair(tmp_path, dtype)
    out, baked = tmp_path / "all.shira", tmp_path / "baked.safetensors"
    given_ = ["extract", tuned, base, "-o", out, "--density", "1", "--dtype", "float32"]
    assert main([str(word) for word in given_]) == 0
    assert main(["bake", str(base), str(baked), str(out)]) == 0
    assert same(baked, tuned)


def test_single_precision_comes_back_to_its_last_bit(tmp_path):
    tuned, base = pair(tmp_path)
    adapter, energy = extract(tuned, base, Choice(1.0))
    assert energy.share == pytest.approx(1)
    found = load_file(base)
    shira.apply(found, [(adapter, 1.0)])
    for name, wanted in load_file(tuned).items():
        assert torch.allclose(found[name], wanted, rtol=2**-23, atol=2**-24)


def test_a_base_of_another_dtype_is_compared_as_it_is(tmp_path):
    tuned, base = pair(tmp_path)
    half = tmp_path / "half.safetensors"
    save_file({name: value.half() for name, value in load_file(tuned).items()}, half)
    adapter, _ = extract(half, base, Choice(1.0))
    wanted, old = load_file(half), load_file(base)
    for name, delta in adapter.weights.items():
        assert torch.equal(delta.dense(), wanted[name].float() - old[name])


@pytest.mark.parametrize("scope", SCOPES)
def test_a_sparse_change_is_found_again_and_nothing_else(tmp_path, scope):
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    save_file({name: value.half() for name, value in weights().items()}, base)
    sparse = random_adapter({n: SHAPES[n] for n in MATRICES}, 3, density=0.1)
    shira.bake(base, tuned, [(sparse, 1.0)])
    adapter, energy = extract(tuned, base, Choice(0.5, scope=scope))
    assert set(adapter.weights) == set(MATRICES)
    assert energy.share == pytest.approx(1)
    for name in MATRICES:
        assert torch.equal(adapter.weights[name].positions, sparse.weights[name].positions)
    shira.bake(base, tmp_path / "again.safetensors", [(adapter, 1.0)])
    assert same(tmp_path / "again.safetensors", tuned)


# ---- the choice of entries ----
def largest(deltas: dict[str, Tensor], choice: Choice) -> dict[str, Tensor]:
    """What a choice means, by sorting everything."""
    groups = [list(deltas)] if choice.scope == "global" else [[name] for name in deltas]
    found = {}
    for names in groups:
        sizes = torch.cat([deltas[name].flatten() for name in names]).abs()
        order = torch.sort(sizes, descending=True, stable=True).indices
        count = max(1, int((choice.density or 0) * len(sizes) + 1e-6))
        if choice.energy is not None:
            carried = sizes[order].double().square().cumsum(0)
            count = int((carried < choice.energy * carried[-1] * (1 - 1e-12)).sum()) + 1
        kept = torch.zeros_like(sizes, dtype=torch.bool)
        kept[order[:count]] = True
        parts = (kept & (sizes > 0)).split([deltas[name].numel() for name in names])
        found |= {n: part.nonzero().view(-1) for n, part in zip(names, parts, strict=True)}
    return found


CHOICES = st.one_of(
    st.builds(Choice, st.floats(0.001, 1), st.none(), st.sampled_from(SCOPES)),
    st.builds(Choice, st.none(), st.floats(0.01, 0.999), st.sampled_from(SCOPES)),
)


@settings(max_examples=50, deadline=None)
@given(
    choice=CHOICES,
    seed=st.integers(0, 99),
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30)), min_size=1, max_size=4),
    step=st.sampled_from([0.0, 0.25, 1.0, 3.0]),
)
def test_the_largest_entries_are_chosen(choice, seed, shapes, step):
    """With steps many entries are equal, or zero; then the first ones count as larger."""
    generator = torch.Generator().manual_seed(seed)
    deltas = {
        str(n): torch.randn(s, generator=generator) * (n + 1) ** 2 for n, s in enumerate(shapes)
    }
    if step:
        deltas = {name: (delta / step).round() * step for name, delta in deltas.items()}
    found, energy = select(Deltas({n: d.shape for n, d in deltas.items()}, deltas.get), choice)
    for name, wanted in largest(deltas, choice).items():
        positions = found[name].positions if name in found else torch.empty(0, dtype=torch.int64)
        assert torch.equal(positions, wanted)
        kept = deltas[name].flatten()[wanted]
        if name in found:
            assert torch.equal(found[name].values, kept)
        assert energy.weights[name].entries == len(wanted)
        assert energy.weights[name].captured == pytest.approx(float(kept.double().square().sum()))


def test_the_curve_tells_what_other_densities_carry():
    deltas = {"a": torch.randn(300, 200, generator=torch.Generator().manual_seed(0))}
    shapes = {"a": (300, 200)}
    _, told = select(Deltas(shapes, deltas.get), Choice(0.02))
    for density in (0.001, 0.02, 0.1, 0.5, 1.0):
        _, energy = select(Deltas(shapes, deltas.get), Choice(density))
        assert told.carried(density) == pytest.approx(energy.share, abs=2e-3)
    _, wanted = select(Deltas(shapes, deltas.get), Choice(None, 0.95))
    assert 0.95 <= wanted.share < 0.9501
    assert told.needed(0.95) == pytest.approx(wanted.total.density, abs=2e-3)


@pytest.mark.parametrize("scope", SCOPES)
def test_vectors_are_kept_whole(tmp_path, scope):
    adapter, energy = extract(*pair(tmp_path), Choice(0.1, scope=scope))
    for name in set(SHAPES) - set(MATRICES):
        assert adapter.weights[name].count == energy.weights[name].cells == SHAPES[name][0]
    kept = sum(energy.weights[name].entries for name in MATRICES)
    cells = sum(energy.weights[name].cells for name in MATRICES)
    assert kept == pytest.approx(0.1 * cells, abs=len(MATRICES))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ((None, None), "density or an energy, not both"),
        ((0.1, 0.9), "density or an energy, not both"),
        ((0.0,), "density 0.0 is no share"),
        ((float("nan"),), "density nan is no share"),
        ((None, 1.5), "energy 1.5 is no share"),
        ((0.1, None, "block"), "scope 'block' is unknown: choose layer or global"),
    ],
)
def test_choices_that_make_no_sense(fields, reason):
    with pytest.raises(errors.InvalidValue, match=reason):
        Choice(*fields)


# ---- what is compared ----
def test_what_an_adapter_does_not_hold_is_told(tmp_path):
    more = {
        VAE: torch.ones(2, 3),
        "model_ema.diffusion_modelout0weight": torch.ones(4),
        "alphas_cumprod": torch.ones(1000),
        f"{UNET}scale": torch.tensor(2.0),
        "cond_stage_model.position_ids": torch.arange(77),
    }
    tuned, base = pair(tmp_path, more={**more, "new.weight": torch.ones(3, 5)})
    old = {name: torch.zeros_like(value) for name, value in more.items()}
    save_file(load_file(base) | old | {"old.weight": torch.ones(7)}, base)
    adapter, energy = extract(tuned, base, Choice(1.0))
    assert set(adapter.weights) == set(energy.weights) == set(SHAPES)
    assert {what: (left.cells, left.total) for what, left in energy.left_out.items()} == {
        "the VAE": (6, 6.0),
        "copies for training (EMA)": (4, 4.0),
        "the noise schedule": (1000, 1000.0),
        "single numbers": (1, 4.0),
        "only in the tuned model": (15, 0.0),
        "only in the base": (7, 0.0),
    }


def test_what_is_equal_is_not_told(tmp_path):
    tuned, base = pair(tmp_path, more={VAE: torch.ones(2, 3)})
    save_file(load_file(base) | {VAE: torch.ones(2, 3)}, base)
    assert extract(tuned, base, Choice())[1].left_out == {}


@pytest.mark.parametrize("start", [UNET, "model."])
def test_a_file_of_the_denoiser_alone(tmp_path, start):
    tuned, base = pair(tmp_path)
    wanted, _ = extract(tuned, base, Choice(scope="layer"))
    own = {n.removeprefix(start): v for n, v in load_file(tuned).items() if n.startswith(UNET)}
    save_file(own, tuned)
    adapter, energy = extract(tuned, base, Choice(scope="layer"))
    assert set(adapter.weights) == {name for name in SHAPES if name.startswith(UNET)}
    assert set(energy.left_out) == {"only in the base"}
    for name, delta in adapter.weights.items():
        assert torch.equal(delta.dense(), wanted.weights[name].dense())


@pytest.mark.parametrize("architecture", ["sd15", "sdxl"])
def test_a_diffusers_folder_is_the_checkpoint_that_it_holds(tmp_path, architecture):
    pytest.importorskip("diffusers")
    import lora_files as files
    import sd_modules as sd

    from shira_core.integrations.diffusers import load_shira

    def write(name: str) -> list[Path]:
        for component, module in sd.components(pipe).items():
            module.save_pretrained(tmp_path / name / sd.ATTRIBUTES[component])
        file = tmp_path / f"{name}.safetensors"
        save_file(files.checkpoint(architecture, pipe), file)
        return [tmp_path / name, file]

    pipe = files.tiny(architecture)
    bases = write("base")
    generator = torch.Generator().manual_seed(0)
    for module in sd.components(pipe).values():
        for weight in module.parameters():
            weight.data += torch.randn(weight.shape, generator=generator) * 0.01
    tuned = write("tuned")
    wanted, _ = extract(tuned[1], bases[1], Choice(0.1))
    for first, second in [(tuned[0], bases[0]), (tuned[0], bases[1]), (tuned[1], bases[0])]:
        adapter, energy = extract(first, second, Choice(0.1))
        assert adapter.header.architecture.startswith(architecture)
        assert set(adapter.weights) == set(wanted.weights)
        assert energy.left_out == {}
        for name, delta in wanted.weights.items():
            assert torch.equal(adapter.weights[name].positions, delta.positions)
            assert torch.equal(adapter.weights[name].values, delta.values)
    ours = files.tiny(architecture)
    load_shira(ours, extract(tuned[0], bases[0], Choice(1.0))[0])
    found = sd.snapshot(ours)
    for name, value in sd.snapshot(pipe).items():
        assert torch.allclose(found[name], value, rtol=2**-23, atol=2**-24), name


def test_the_header_tells_where_it_comes_from(tmp_path):
    import hashlib

    tuned, base = pair(tmp_path)
    header = extract(tuned, base, Choice(None, 0.9, "global"))[0].header
    assert (header.base, header.title, header.mask) == ("base", "tuned", "magnitude")
    assert header.base_sha256 == hashlib.sha256(base.read_bytes()).hexdigest()
    assert header.training["extracted_from"] == "tuned.safetensors"
    assert header.training["energy"] == pytest.approx(0.9, abs=0.01)
    assert 0 < header.density < 1


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("how", ["mark", "metadata", "nothing"])
def test_the_prediction_type_is_what_a_model_says(tmp_path, which, how):
    files = pair(tmp_path)
    mark = {"v_pred": torch.ones(1)} if how == "mark" else {}
    said = {"modelspec.prediction_type": "v"} if how == "metadata" else {}
    save_file(load_file(files[which]) | mark, files[which], said)
    wanted = "" if how == "nothing" else "v_prediction"
    assert extract(*files, Choice())[0].header.prediction_type == wanted


# ---- errors ----
def broken(folder: Path, kind: str) -> tuple[Path, Path]:
    tuned, base = pair(folder)
    first = next(iter(SHAPES))
    own = load_file(tuned)
    if kind == "nan":
        own[first][0, 0] = float("nan")
    elif kind == "shape":
        own[first] = torch.zeros(24, 41)
    elif kind == "quantised":
        own[first] = torch.zeros(SHAPES[first], dtype=torch.int8)
    elif kind == "other":
        own = {f"double_blocks.{n}.weight": torch.zeros(3, 3) for n in range(3)}
    elif kind == "equal":
        own = load_file(base)
    save_file(own, tuned)
    if kind == "cut":
        tuned.write_bytes(tuned.read_bytes()[:-5])
    elif kind == "pickle":
        torch.save({}, tuned)
    elif kind == "missing":
        tuned.unlink()
    elif kind == "folder":
        tuned.unlink()
        tuned.mkdir()
    return tuned, base


@pytest.mark.parametrize(
    ("kind", "error", "reason"),
    [
        ("nan", errors.FileInvalid, r"tuned.safetensors: .*proj_in.weight has NaN"),
        ("shape", errors.ShapeMismatch, r"24x41 in .*tuned.* and 24x40 in .*base.*: give the base"),
        ("quantised", errors.FileInvalid, r"proj_in.weight is stored as I8: .* quantised"),
        ("other", errors.ArchitectureMismatch, "is Flux and .* is unknown: give the base"),
        ("equal", errors.InvalidValue, "are the same: there is nothing to extract"),
        ("cut", errors.FileInvalid, "it is cut short or damaged"),
        ("pickle", errors.FileInvalid, "PyTorch pickle"),
        ("missing", errors.FileInvalid, "does not exist"),
        ("folder", errors.FileInvalid, "no diffusers folder"),
    ],
)
def test_models_that_cannot_be_compared(tmp_path, kind, error, reason):
    with pytest.raises(error, match=reason):
        extract(*broken(tmp_path, kind), Choice())


# ---- the command ----
def run(*words: object) -> int:
    return main(["extract", *(str(word) for word in words)])


def test_the_command_shows_what_it_kept(tmp_path, capsys):
    tuned, base = pair(tmp_path)
    out, plot = tmp_path / "a.shira", tmp_path / "a.png"
    given_ = [tuned, base, "-o", out, "--density", "0.1", "--scope", "global"]
    assert run(*given_, "--plot", plot) == 0
    lines = capsys.readouterr().out.splitlines()
    adapter, energy = extract(tuned, base, Choice(0.1, scope="global"))
    assert [line.split()[0] for line in lines[1:5]] == ["in4", "mid", "te1.3", "unet"]
    assert lines[5].split()[:2] == ["total", f"{adapter.entries:,}"]
    assert lines[5].split()[-1] == f"{energy.share:.2%}"
    assert (
        lines[-1] == f"wrote {out} ({out.stat().st_size / 1e3:.1f} kB, {adapter.entries} entries)"
    )
    assert plot.read_bytes().startswith(b"\x89PNG")
    found = shira.load(out)
    assert {found.weights[name].values.dtype for name in found.weights} == {torch.float16}
    for name, delta in adapter.weights.items():
        assert torch.equal(found.weights[name].positions, delta.positions)
        assert torch.equal(found.weights[name].values, delta.values.half())


def test_figures_as_json_add_up(tmp_path, capsys):
    words = ["-o", tmp_path / "a.shira", "--energy", "0.9", "--scope", "layer", "--json"]
    assert run(*pair(tmp_path), *words) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures["layers"]) == set(SHAPES)
    assert all(figures["layers"][name]["captured"] >= 0.9 for name in MATRICES)
    for group in ("layers", "blocks"):
        rows = figures[group].values()
        assert sum(row["entries"] for row in rows) == figures["total"]["entries"]
        assert sum(row["energy"] for row in rows) == pytest.approx(figures["total"]["energy"])
    assert figures["curve"][-1] == [1.0, pytest.approx(1.0)]


def test_the_file_is_named_after_the_tuned_model(tmp_path, monkeypatch):
    tuned, base = pair(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run(tuned, base) == 0
    assert shira.load("tuned.shira").header.density == 0.02


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--density", "0"], 1, "density 0.0 is no share"),
        (["--energy", "2"], 1, "energy 2.0 is no share"),
        (["--density", "0.1", "--energy", "0.5"], 2, "not allowed with"),
        (["--scope", "block"], 2, "invalid choice"),
        (["--plot", "here.png"], 1, "here.png exists"),
        (["-o", "here.shira"], 1, "here.shira exists"),
        (["--dtype", "int8"], 2, "invalid choice"),
    ],
)
def test_options_that_cannot_be_met_stop_it_before_it_starts(
    tmp_path, monkeypatch, capsys, words, code, reason
):
    monkeypatch.chdir(tmp_path)
    for name in ("here.png", "here.shira"):
        Path(name).write_bytes(b"mine")
    try:
        found = run("missing.safetensors", "missing.safetensors", *words)
    except SystemExit as stop:
        found = stop.code
    assert found == code
    assert reason in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"here.png", "here.shira"}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells the peak of memory")
def test_memory_holds_one_weight_not_the_models(tmp_path):
    many = {f"{UNET}input_blocks.{n}.0.weight": torch.randn(1024, 1024) for n in range(30)}
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    save_file(many, base)
    save_file({name: value * 1.01 for name, value in many.items()}, tuned)
    script = (
        "import sys; from shira_core.cli import main;"
        "import shira_core.conversion.difference, shira_core.file;"
        "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]);"
        "before = peak(); main(sys.argv[1:]); print(peak() - before)"
    )
    words = ["extract", tuned, base, "-o", tmp_path / "a.shira", "--scope", "global"]
    found = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True, check=True
    )
    grown = int(found.stdout.splitlines()[-1]) * 1024
    assert grown < 100e6 < tuned.stat().st_size  # one weight has 4 MB

"""`shira convert` between adapters and to LoRAs: against dense arithmetic, SVD, and diffusers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import bits, random_adapter
from deltas import random_delta
from safetensors.torch import load_file, save_file

import shira_core as shira
from shira_core import errors, keymaps
from shira_core.cli import main
from shira_core.conversion.low_rank import energy, factors, residual
from shira_core.conversion.rename import rename
from shira_core.conversion.to_lora import to_lora
from shira_core.mask import Mask, SparseDelta

UNET = "model.diffusion_model."
Q = f"{UNET}middle_block.1.transformer_blocks.0.attn1.to_q.weight"
CONV = f"{UNET}input_blocks.1.0.in_layers.2.weight"
NORM = f"{UNET}input_blocks.1.0.in_layers.0.weight"
TEXT = "cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc1.weight"
SHAPES = {Q: (24, 40), CONV: (8, 12, 3, 3), TEXT: (30, 10)}
FIELDS: dict[str, Any] = {
    "architecture": "sd15",
    "base": "my base",
    "base_sha256": "ab" * 32,
    "triggers": ("ink",),
    "title": "Ink",
    "license": "CC0",
    "training": {"steps": 300},
    "extra": {"modelspec.thumbnail": "data:image/png;base64,AA==", "ss_own": "kept"},
}


@pytest.fixture
def style(tmp_path: Path) -> Path:
    adapter = random_adapter(SHAPES, 0, density=0.3, scale=0.1, **FIELDS)
    return adapter.save(tmp_path / "style.shira")


def convert(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        code = main(["convert", *map(str, arguments)])
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def same(one: shira.Adapter, other: shira.Adapter) -> bool:
    """Tell whether two adapters have the same entries, bit for bit, and the same masks."""
    return set(one.weights) == set(other.weights) and all(
        torch.equal(one.weights[n].positions, other.weights[n].positions)
        and one.weights[n].values.dtype == other.weights[n].values.dtype
        and bits(one.weights[n].values) == bits(other.weights[n].values)
        and (one.weights[n].mask.struct is None) == (other.weights[n].mask.struct is None)
        for n in one.weights
    )


# ---- the closest product of two thin matrices ----
@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 8, 3, 3), (4, 9, 1, 1), (1, 7)])
@pytest.mark.parametrize("rank", [1, 3, 1000])
def test_factors_are_the_optimum_that_svd_gives(shape: tuple[int, ...], rank: int) -> None:
    delta = random_delta(shape, 0.3, 1, dtype=torch.float32)
    dense = delta.dense().flatten(1).double()
    found, values = factors(delta, rank), torch.linalg.svdvals(dense)
    wanted = values[rank:].square().sum()
    error = (dense - found.up @ found.down).square().sum()
    assert found.rank == min(rank, int(torch.linalg.matrix_rank(dense)))
    assert torch.allclose(error, wanted, atol=1e-9 * float(dense.square().sum()))
    for kept in (found, found.to(torch.float16)):
        error = float((dense - kept.up @ kept.down).square().sum())
        assert residual(delta, kept) == pytest.approx(error, abs=1e-12 * energy(delta))


def test_a_delta_of_zeros_has_no_factors() -> None:
    for count in (0, 3):
        zeros = SparseDelta(Mask((4, 5), torch.arange(count)), torch.zeros(count))
        assert factors(zeros, 2).rank == 0


@pytest.mark.parametrize("converges", [True, False])
def test_many_equal_eigenvalues_do_no_harm(
    converges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine rows of ten without an entry: LAPACK's eigh gave up on some such matrices."""
    few = random_delta((128, 256), 0.05, 7, dtype=torch.float32)
    positions = few.positions + few.positions.div(256, rounding_mode="floor") * 9 * 256
    delta = SparseDelta(Mask((1280, 256), positions), few.values)
    if not converges:
        monkeypatch.setattr(torch.linalg, "eigh", diverging)
    found = factors(delta, 128)
    assert residual(delta, found) <= 1e-9 * energy(delta)
    assert not found.up[1].any()


def diverging(matrix: torch.Tensor) -> None:
    raise torch.linalg.LinAlgError("linalg.eigh: The algorithm failed to converge")


# ---- LoRAs as other programs read them ----
@pytest.fixture(params=["sd15", "sdxl"])
def models(request: pytest.FixtureRequest) -> tuple[str, dict[str, torch.nn.Module]]:
    pytest.importorskip("peft")
    pytest.importorskip("diffusers")
    import sd_modules as sd

    kind = str(request.param)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind, {c: sd.module(kind, c, "tiny") for c in sd.PREFIXES[kind]}


@pytest.mark.filterwarnings("ignore:The following alpha_pattern keys")
@pytest.mark.parametrize("rank", [2, 64])
def test_diffusers_fuses_what_was_written(
    models: tuple[str, dict[str, torch.nn.Module]], rank: int, tmp_path: Path
) -> None:
    import sd_modules as sd

    kind, modules = models
    deltas = shira.MemoryWeights(sd.random_deltas(kind, modules, 60))
    adapter = shira.Adapter(shira.Header(architecture=kind), deltas)
    lora, kept = to_lora(adapter, rank, dtype=torch.float32, partial=True)
    assert set(kept.left_out) >= {"biases and norms", "embeddings and projections"}
    path = lora.save(tmp_path / "lora.safetensors")
    pipe = sd.pipeline(kind, {"te2": None, **modules})
    before = sd.snapshot(pipe)
    pipe.load_lora_weights(str(path))
    pipe.fuse_lora(components=["unet", "text_encoder", *(["text_encoder_2"] * (kind == "sdxl"))])
    pipe.unload_lora_weights()
    after, total, missed, changed = sd.snapshot(pipe), 0.0, 0.0, 0
    for component, sources in sd.sources(kind, modules).items():
        for name, source in sources.items():
            change = (after[f"{component}.{name}"] - before[f"{component}.{name}"]).double()
            wanted = _part(deltas[source.name], source)
            if source.name in kept.weights:
                total += float(wanted.square().sum())
                missed += float((wanted - change).square().sum())
            changed += bool(change.any())
            assert bool(change.any()) == (source.name in kept.weights and bool(wanted.any())), name
    assert changed > 100
    assert kept.total.total == pytest.approx(total)
    assert kept.share == pytest.approx(1 - missed / total, abs=1e-5)
    if rank == 64:
        assert missed < 1e-9 * total


def _part(delta: SparseDelta, source: keymaps.Source) -> torch.Tensor:
    rows = delta.dense().double().chunk(source.parts)[source.part]
    return rows.t() if source.transposed else rows


@pytest.mark.parametrize(("kind", "beginning"), [("sd15", "lora_te_"), ("sdxl", "lora_te1_")])
def test_kohyas_names(kind: str, beginning: str) -> None:
    prefix = {"sd15": "cond_stage_model.", "sdxl": "conditioner.embedders.0."}[kind]
    text = f"{prefix}transformer.text_model.encoder.layers.3.mlp.fc1.weight"
    shapes = {Q: (8, 6), CONV: (8, 12, 3, 3), text: (6, 6)}
    adapter = random_adapter(shapes, 0, density=0.3, architecture=kind)
    lora, kept = to_lora(adapter, 4)
    block = "middle_block_1" if kind == "sdxl" else "mid_block_attentions_0"
    conv = "input_blocks_1_0_in_layers_2" if kind == "sdxl" else "down_blocks_0_resnets_0_conv1"
    modules = (
        f"lora_unet_{block}_transformer_blocks_0_attn1_to_q",
        f"lora_unet_{conv}",
        f"{beginning}text_model_encoder_layers_3_mlp_fc1",
    )
    assert {name.partition(".")[0] for name in lora.tensors} == set(modules)
    assert lora.tensors[f"{modules[1]}.lora_down.weight"].shape == (4, 12, 3, 3)
    assert lora.tensors[f"{modules[1]}.lora_up.weight"].shape == (8, 4, 1, 1)
    assert set(kept.weights) == set(shapes)


def test_other_denoisers_keep_their_names() -> None:
    name = f"{UNET}double_blocks.0.img_attn.qkv.weight"
    lora, _ = to_lora(random_adapter({name: (9, 6)}, 0, architecture="flux"), 2)
    assert all(n.startswith("lora_unet_double_blocks_0_img_attn_qkv.") for n in lora.tensors)


@pytest.mark.parametrize(
    ("shapes", "kind", "wrong"),
    [
        ({Q: (4, 4), NORM: (9,)}, "sd15", r"cannot hold 1 of the 2 weights.*biases and norms"),
        ({NORM: (9,)}, "sd15", r"--partial \(partial=True\) leaves them out"),
        ({Q: (4, 4)}, "unknown", "does not say its architecture"),
    ],
)
def test_what_no_lora_can_hold(shapes: dict[str, Any], kind: str, wrong: str) -> None:
    adapter = random_adapter(shapes, 0, density=0.5, architecture=kind)
    with pytest.raises((errors.InvalidValue, errors.ArchitectureMismatch), match=wrong):
        to_lora(adapter, 2)


def test_the_command_tells_the_error_that_the_file_has(
    capsys: pytest.CaptureFixture[str], style: Path, tmp_path: Path
) -> None:
    out = tmp_path / "lora.safetensors"
    code, text, _ = convert(capsys, style, "-o", out, "--to", "lora", "--rank", 4)
    assert code == 0
    assert [line.split()[0] for line in text.splitlines()] == [
        *("block", "in1", "mid", "te1.3", "total", "wrote")
    ]
    code, text, _ = convert(
        capsys, style, "-o", out, "--to", "lora", "--rank", 4, "--json", "--overwrite"
    )
    tensors, adapter = load_file(out), shira.load(style)
    missed = total = 0.0
    for name, module in {
        Q: "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q",
        CONV: "lora_unet_down_blocks_0_resnets_0_conv1",
        TEXT: "lora_te_text_model_encoder_layers_3_mlp_fc1",
    }.items():
        up, down = (tensors[f"{module}.lora_{side}.weight"].double() for side in ("up", "down"))
        scale = tensors[f"{module}.alpha"].item() / len(down)
        dense = adapter.weights[name].dense().double()
        change = scale * (up.flatten(1) @ down.flatten(1)).view(dense.shape)
        missed += float((dense - change).square().sum())
        total += float(dense.square().sum())
    assert json.loads(text)["total"]["captured"] == pytest.approx(1 - missed / total)
    assert {tensor.dtype for n, tensor in tensors.items() if "lora_" in n[-20:]} == {torch.float16}
    from safetensors import safe_open

    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert metadata["modelspec.trigger_phrase"] == "ink"
    assert metadata["modelspec.thumbnail"] == "data:image/png;base64,AA=="
    assert (metadata["ss_network_dim"], metadata["ss_own"]) == ("4", "kept")
    header = json.loads(metadata["shira.header"])
    assert header["training"] == {"steps": 300, "converted": ["LoRA of rank 4"]}


# ---- adapters to adapters ----
def test_the_twin_has_the_same_bytes(
    capsys: pytest.CaptureFixture[str], style: Path, tmp_path: Path
) -> None:
    twin, back = tmp_path / "twin.safetensors", tmp_path / "back.shira"
    assert convert(capsys, style, "-o", twin)[0] == 0
    assert convert(capsys, twin, "-o", back, "--json")[0] == 0
    assert style.read_bytes() == twin.read_bytes() == back.read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_another_dtype(
    capsys: pytest.CaptureFixture[str], style: Path, tmp_path: Path, dtype: str
) -> None:
    out = tmp_path / "other.shira"
    assert convert(capsys, style, "-o", out, "--dtype", dtype)[0] == 0
    found, wanted = shira.load(out), shira.load(style)
    for name in wanted.weights:
        assert torch.equal(found.weights[name].positions, wanted.weights[name].positions)
        values = wanted.weights[name].values.to(getattr(torch, dtype))
        assert bits(found.weights[name].values) == bits(values)
    noted = ["values as " + dtype] if dtype != "float16" else None
    assert found.header.training.get("converted") == noted


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize(("option", "share"), [("--density", 0.1), ("--energy", 0.8)])
def test_fewer_entries_are_the_largest(
    capsys: pytest.CaptureFixture[str],
    style: Path,
    tmp_path: Path,
    scope: str,
    option: str,
    share: float,
) -> None:
    out = tmp_path / "fewer.shira"
    code, text, _ = convert(capsys, style, "-o", out, option, share, "--scope", scope, "--json")
    assert code == 0
    found, wanted, facts = shira.load(out), shira.load(style), json.loads(text)
    groups = [list(wanted.weights)] if scope == "global" else [[name] for name in wanted.weights]
    kept = total = 0.0
    for names in groups:
        dense = torch.cat([wanted.weights[name].dense().flatten() for name in names])
        new = torch.cat([_dense(found, name, wanted).flatten() for name in names])
        chosen = new != 0
        assert torch.equal(new[chosen], dense[chosen])
        assert new[chosen].abs().min() >= dense[~chosen].abs().max()
        squares, mine = dense.double().square(), new.double().square().sum()
        if option == "--density":
            assert int(chosen.sum()) == int(share * len(dense))
        else:
            least = new[chosen].double().abs().min().square()
            assert mine >= share * squares.sum() > mine - least
        kept, total = kept + float(mine), total + float(squares.sum())
    assert facts["total"]["captured"] == pytest.approx(kept / total)
    assert found.header.density == pytest.approx(
        found.entries / sum(map(math.prod, SHAPES.values()))
    )
    assert {found.weights[name].values.dtype for name in found.weights} == {torch.float16}
    assert len(found.header.training["converted"]) == 1


def _dense(adapter: shira.Adapter, name: str, like: shira.Adapter) -> torch.Tensor:
    if name not in adapter.weights:
        return torch.zeros(like.weights.shape(name))
    return adapter.weights[name].dense()


def test_the_header_stays(capsys: pytest.CaptureFixture[str], style: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.shira", tmp_path / "two.shira"
    assert convert(capsys, style, "-o", one, "--density", 0.2, "--dtype", "float32")[0] == 0
    assert convert(capsys, one, "-o", two, "--density", 0.1)[0] == 0
    header = shira.load(two).header
    for name, value in FIELDS.items():
        if name != "training":
            assert getattr(header, name) == value
    lines = header.training["converted"]
    assert [line.split("%")[0] for line in lines] == ["19.962", "values as float32", "9.981"]
    assert main(["info", str(two)]) == 0
    assert "values as float32" in capsys.readouterr().out


# ---- other names ----
def checkpoint(path: Path, names: dict[str, str]) -> Path:
    """Write a file with zeros for the weights; names: as the adapter calls them, by its own."""
    save_file({own: torch.zeros(SHAPES[name]) for own, name in names.items()}, path)
    return path


WHOLE = {name: name for name in SHAPES}
BARE = {name.removeprefix(UNET): name for name in (Q, CONV)}
DIFFUSERS = {
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight": Q,
    "down_blocks.0.resnets.0.conv1.weight": CONV,
}


@pytest.mark.parametrize("start", [BARE, DIFFUSERS, WHOLE], ids=["bare", "diffusers", "whole"])
@pytest.mark.parametrize("end", [BARE, DIFFUSERS, WHOLE], ids=["bare", "diffusers", "whole"])
def test_other_names_for_the_same_weights(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    start: dict[str, str],
    end: dict[str, str],
) -> None:
    given = random_adapter({Q: SHAPES[Q], CONV: SHAPES[CONV]}, 0, mask="struct", **FIELDS)
    own = {name: own for own, name in start.items()}
    weights = shira.MemoryWeights({own[name]: given.weights[name] for name in given.weights})
    path = shira.Adapter(given.header, weights).save(tmp_path / "given.shira")
    base, out = checkpoint(tmp_path / "base.safetensors", end), tmp_path / "out.shira"
    assert convert(capsys, path, "-o", out, "--base", base)[0] == 0
    found = shira.load(out)
    back = shira.MemoryWeights({end[name]: found.weights[name] for name in found.weights})
    assert same(shira.Adapter(found.header, back), given)
    noted = ["names of base.safetensors"] if start != end else None
    assert found.header.training.get("converted") == noted
    assert (found.header.base, found.header.base_sha256) == ("my base", "ab" * 32)


def test_an_architecture_that_the_base_tells() -> None:
    shapes = {f"{UNET}double_blocks.0.img_attn.qkv.weight": (9, 6)}
    adapter = random_adapter(shapes, 0)
    found = rename(adapter, {**shapes, "x.weight": (3, 3)}, "flux.safetensors")
    assert found.header.architecture == "flux"
    assert found.header.training["converted"] == ["architecture of flux.safetensors"]
    own = random_adapter({"model.layers.0.q_proj.weight": (9, 6)}, 0)
    assert rename(own, {"model.layers.0.q_proj.weight": (9, 6)}, "llm.safetensors") is own


@pytest.mark.parametrize(
    ("shapes", "error"),
    [
        ({Q.removeprefix(UNET): SHAPES[Q]}, errors.WeightMissing),
        ({**SHAPES, Q: (40, 24)}, errors.ShapeMismatch),
        ({}, errors.WeightMissing),
    ],
)
def test_a_base_that_does_not_fit(shapes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        rename(random_adapter(SHAPES, 0, **FIELDS), shapes, "base")


# ---- refusals ----
REFUSED = [
    (["{style}", "-o", "{out}"], "does not tell its kind: add --to shira"),
    (["{style}", "-o", "{style}", "--overwrite"], "is the input: give -o another name"),
    (["{style}", "-o", "{old}"], "exists: choose another name or add --overwrite"),
    (["{style}", "-o", "{old}", "--to", "peft"], "is a file: name a folder"),
    (["{style}", "-o", "{out}.shira", "--rank", "4"], "--rank is for a LoRA that is written"),
    (["{style}", "-o", "{out}.shira", "--scale", "2"], "--scale is for a LoRA that is read"),
    (["{style}", "-o", "{out}.shira", "--partial"], "--partial is for --to lora and --to peft"),
    (["{style}", "-o", "{out}.shira", "--plot", "x.png"], "--plot shows what was chosen"),
    (["{style}", "-o", "{out}", "--to", "lora", "--density", ".1"], "to a .shira file first"),
    (["{style}", "-o", "{out}", "--to", "lora", "--rank", "0"], "rank 0 is too small"),
    (["{style}", "-o", "{out}", "--to", "peft", "--dtype", "float16"], "leave --dtype out"),
    (["{style}", "-o", "{out}", "--to", "peft"], "cannot hold 1 of the 3 weights"),
    (["{style}", "-o", "{out}.shira", "--density", "2"], "is no share"),
    (["{style}", "-o", "{out}/no/x.shira"], "make its folder first"),
    (["{style}", "-o", "{out}/no/x", "--to", "lora"], "make its folder first"),
    (["{style}", "-o", "{out}" + "x" * 300, "--to", "lora"], "cannot write"),
    (["{style}" + "x" * 300, "-o", "{out}.shira"], "cannot be read"),
    (["{style}", "-o", "{out}.shira", "--base", "{style}"], "no weight of the model lies there"),
    (["{lora}", "-o", "{out}.shira"], "needs the model that it was made for: add --base"),
    (["{lora}", "-o", "{out}", "--to", "peft", "--base", "{old}"], "is a LoRA: convert it to a"),
    (["{old}", "-o", "{out}.shira"], "is no safetensors file"),
    (["{out}", "-o", "{out}.shira"], "does not exist"),
    (["{folder}", "-o", "{out}.shira"], "has no adapter_config.json"),
]


@pytest.mark.parametrize(("arguments", "wrong"), REFUSED)
def test_refusals_leave_nothing(
    capsys: pytest.CaptureFixture[str],
    style: Path,
    tmp_path: Path,
    arguments: list[str],
    wrong: str,
) -> None:
    places = {name: tmp_path / name for name in ("out", "lora", "folder")}
    places["old"] = tmp_path / "old.shira"
    places["old"].write_bytes(b"mine")
    places["folder"].mkdir()
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(1)}, places["lora"])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    given = [argument.format(style=style, **places) for argument in arguments]
    code, out, err = convert(capsys, *given)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert wrong in err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    "arguments",
    [["x.shira"], ["-o", "x.shira"], ["x", "-o", "y", "--to", "z"], ["x", "--rank", "many"]],
)
def test_command_lines_that_are_not_understood(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert convert(capsys, *arguments)[0] == 2


# ---- from LoRAs ----
def test_a_lora_of_full_rank_comes_back_as_the_adapter(
    capsys: pytest.CaptureFixture[str], style: Path, tmp_path: Path
) -> None:
    pytest.importorskip("diffusers")
    import sd_modules as sd

    with torch.device("meta"):
        modules = {c: sd.module("sd15", c, "tiny") for c in ("unet", "te1")}
    shapes = {}
    for component, sources in sd.sources("sd15", modules).items():
        own = {name: weight.shape for name, weight in modules[component].state_dict().items()}
        shapes |= sd.checkpoint_shapes(sources, own)
    base = tmp_path / "base.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, base)
    names = [name for name in shapes if "attn1" in name or "self_attn.q_proj" in name]
    given = random_adapter(
        {n: shapes[n] for n in names if n.endswith(".weight")}, 0, architecture="sd15"
    )
    lora, back = tmp_path / "lora.safetensors", tmp_path / "back.shira"
    path = given.save(tmp_path / "given.shira")
    options = ("--to", "lora", "--rank", 64, "--dtype", "float32")
    assert convert(capsys, path, "-o", lora, *options)[0] == 0
    options = ("--base", base, "--density", 1, "--dtype", "float32", "--scale", 0.5)
    code, text, _ = convert(capsys, lora, "-o", back, *options)
    assert code == 0
    assert "kept of it" in text
    found = shira.load(back)
    assert set(found.weights) == set(given.weights)
    for name in given.weights:
        wanted = given.weights[name].dense() / 2
        assert torch.allclose(found.weights[name].dense(), wanted, atol=1e-5)

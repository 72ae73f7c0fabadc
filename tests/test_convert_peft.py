"""`shira convert` to and from PEFT's SHiRA: PEFT itself reads what we write, and the other way."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import bits
from deltas import random_delta, struct_delta
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import shira_core as shira
from shira_core import errors
from shira_core.cli import main
from shira_core.conversion import peft_folder
from shira_core.conversion.from_peft import from_peft
from shira_core.conversion.peft_folder import CONFIG, WEIGHTS
from shira_core.conversion.to_peft import to_peft
from shira_core.mask import SparseDelta

UNET = "model.diffusion_model."
BLOCK = f"{UNET}input_blocks.1.1.transformer_blocks.0."
MODULE = "down_blocks.0.attentions.0.transformer_blocks.0."
Q, FF = f"{BLOCK}attn1.to_q.weight", f"{BLOCK}ff.net.0.proj.weight"
TEXT = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
CONV = f"{UNET}input_blocks.1.0.in_layers.2.weight"


def adapter(deltas: dict[str, SparseDelta], **fields: Any) -> shira.Adapter:
    return shira.Adapter(
        shira.Header(**{"architecture": "sd15", **fields}), shira.MemoryWeights(deltas)
    )


def export(given: shira.Adapter, folder: Path, **options: Any) -> Path:
    peft_folder.write(to_peft(given, folder, **options)[0])
    return folder


def run(*arguments: object) -> int:
    return main(["convert", *map(str, arguments)])


def same(one: shira.Adapter, other: shira.Adapter) -> bool:
    """Tell whether two adapters have the same entries, bit for bit."""
    return set(one.weights) == set(other.weights) and all(
        torch.equal(one.weights[n].positions, other.weights[n].positions)
        and bits(one.weights[n].values) == bits(other.weights[n].values)
        for n in one.weights
    )


def data_hash(path: Path) -> str:
    with safe_open(path, "pt") as file:
        return str(file.metadata()["sshs_model_hash"])


# ---- there and back ----
DELTAS = [
    {Q: random_delta((32, 32), 0.05, 1), FF: random_delta((256, 32), 0.02, 2)},
    {Q: random_delta((32, 32), 0.4, 1, torch.float32)},
    {Q: random_delta((32, 32), 0.1, 1), FF: random_delta((256, 32), 0.1, 2, torch.bfloat16)},
    {Q: struct_delta((32, 32), [3], [5], True), FF: random_delta((256, 32), 0.1, 2)},
    {Q: random_delta((32, 32), 0.05, 1), TEXT: random_delta((96, 48), 0.1, 2)},
    {FF: SparseDelta(random_delta((256, 32), 0.1, 2).mask, torch.zeros(819))},
]


@pytest.mark.parametrize("deltas", DELTAS, ids=range(len(DELTAS)))
def test_an_adapter_comes_back_with_the_same_bytes(
    deltas: dict[str, SparseDelta], tmp_path: Path
) -> None:
    made = adapter(deltas, title="Ink", triggers=("ink",), training={"steps": 3}, extra={"x": "y"})
    path = made.save(tmp_path / "style.shira")
    folder, back = tmp_path / "peft", tmp_path / "back.shira"
    assert run(path, "-o", folder, "--to", "peft") == 0
    assert run(folder, "-o", back) == 0
    assert data_hash(path) == data_hash(back)
    header = shira.load(back).header
    assert header.training == {"steps": 3, "converted": ["from PEFT's SHiRA peft"]}
    assert (header.title, header.triggers, header.extra) == ("Ink", ("ink",), {"x": "y"})


@given(
    outputs=st.integers(4, 24),
    inputs=st.integers(4, 24),
    share=st.floats(0, 0.5),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_any_matrix_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    outputs: int,
    inputs: int,
    share: float,
    dtype: torch.dtype,
    seed: int,
) -> None:
    delta = random_delta((outputs, inputs), share, seed, dtype)
    given = adapter({Q: delta})
    if -(-delta.count // (outputs + inputs)) * (outputs + inputs) > outputs * inputs:
        with pytest.raises(errors.InvalidValue, match="lower the density"):
            to_peft(given, Path("x"))
        return
    found = from_peft(export(given, tmp_path_factory.mktemp("peft"))).weights[Q]
    assert torch.equal(found.positions, delta.positions)
    assert found.shape == delta.shape
    assert (found.values.dtype, bits(found.values)) == (dtype, bits(delta.values))


def test_every_module_has_the_number_of_entries_that_peft_wants(tmp_path: Path) -> None:
    given = adapter({Q: DELTAS[0][Q], FF: random_delta((256, 32), 0.05, 2)})
    tensors = load_file(export(given, tmp_path / "peft") / WEIGHTS)
    config = json.loads((tmp_path / "peft" / CONFIG).read_text())
    assert config["r"] == 2  # 409 entries of 256x32
    for name, rows, columns in (
        (f"{MODULE}attn1.to_q", 32, 32),
        (f"{MODULE}ff.net.0.proj", 256, 32),
    ):
        indices = tensors[f"base_model.model.{name}.shira_indices"]
        values = tensors[f"base_model.model.{name}.shira_weight"]
        assert (indices.dtype, values.dtype) == (torch.int32, torch.float32)
        assert indices.shape == (2, 2 * (rows + columns))
        assert len(values) == 2 * (rows + columns)
        assert len(torch.unique(indices[0] * columns + indices[1])) == len(values)
    assert config["target_modules"] == [f"{MODULE}attn1.to_q", f"{MODULE}ff.net.0.proj"]


def test_each_model_has_a_folder(tmp_path: Path) -> None:
    export(adapter(DELTAS[4]), tmp_path / "peft")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.json")) == [
        *("peft/text_encoder/adapter_config.json", "peft/unet/adapter_config.json")
    ]


# ---- PEFT itself ----
@pytest.fixture(scope="module")
def unet() -> Any:
    pytest.importorskip("peft")
    pytest.importorskip("diffusers")
    import sd_modules as sd

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return sd.module("sd15", "unet", "tiny")


@pytest.fixture(scope="module")
def base(unet: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The UNet as a checkpoint."""
    from shira_core import keymaps

    sources = keymaps.sources("sd15", "unet", unet.state_dict())
    weights = {sources[name].name: weight for name, weight in unet.state_dict().items()}
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    save_file(weights, path)
    return path


def draw(unet: Any) -> torch.Tensor:
    """Return what a UNet computes for fixed inputs."""
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(1, 4, 8, 8, generator=generator)
    text = torch.randn(1, 77, 48, generator=generator)
    with torch.no_grad():
        return unet(sample, torch.tensor(7), text).sample  # type: ignore[no-any-return]


def trained(unet: Any, folder: Path, r: int = 1) -> dict[str, torch.Tensor]:
    """Save random SHiRA of the UNet's attention by PEFT; return the changes by module."""
    import copy

    import peft

    config = peft.ShiraConfig(
        r=r, target_modules=["to_q", "to_v"], random_seed=3, init_weights=False
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = peft.get_peft_model(copy.deepcopy(unet), config)
    model.save_pretrained(str(folder))
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").to_dense()
        for name, module in model.named_modules()
        if hasattr(module, "shira_indices")
    }


def test_peft_reads_what_we_write(unet: Any, tmp_path: Path) -> None:
    import copy

    import peft

    names = {n for n, m in unet.named_modules() if isinstance(m, torch.nn.Linear)}
    from shira_core import keymaps

    sources = keymaps.sources("sd15", "unet", unet.state_dict())
    deltas = {
        sources[f"{name}.weight"].name: random_delta(unet.get_submodule(name).weight.shape, 0.02, 4)
        for name in sorted(names)
    }
    folder = export(adapter(deltas), tmp_path / "peft")
    model = peft.PeftModel.from_pretrained(copy.deepcopy(unet), str(folder))
    plain = copy.deepcopy(unet)
    before = draw(plain)
    target = {sources[name].name: weight for name, weight in plain.state_dict().items()}
    with shira.apply(target, [(adapter(deltas), 1.0)]):
        wanted = draw(plain)
    assert len(deltas) > 100
    assert torch.allclose(draw(model), wanted, atol=1e-5)
    assert not torch.allclose(wanted, before, atol=1e-2)
    for name, module in model.named_modules():
        if hasattr(module, "shira_indices"):
            own = sources[name.removeprefix("base_model.model.") + ".weight"].name
            assert torch.equal(module.get_delta_weight("default").to_dense(), deltas[own].dense())


@pytest.mark.parametrize(("kind", "component"), [("sd15", "te1"), ("sdxl", "te1"), ("sdxl", "te2")])
def test_text_encoders(kind: str, component: str, tmp_path: Path) -> None:
    """With fused and transposed weights of the checkpoint; there by us, back by PEFT's own file."""
    peft = pytest.importorskip("peft")
    import sd_modules as sd

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = sd.module(kind, component, "tiny")
    sources = sd.sources(kind, {component: module})[component]
    linear = [f"{n}.weight" for n, m in module.named_modules() if isinstance(m, torch.nn.Linear)]
    own = {name: module.state_dict()[name] for name in sources}
    shapes = sd.checkpoint_shapes(sources, {name: weight.shape for name, weight in own.items()})
    names = sorted({sources[name].name for name in linear})
    given = adapter(
        {name: random_delta(shapes[name], 0.05, 1) for name in names}, architecture=kind
    )
    folder = export(given, tmp_path / "peft")
    model = peft.PeftModel.from_pretrained(module, str(folder))
    for name in linear:
        layer = model.get_submodule(f"base_model.model.{name.removesuffix('.weight')}")
        source = sources[name]
        wanted = given.weights[source.name].dense().chunk(source.parts)[source.part]
        change = layer.get_delta_weight("default").to_dense()
        assert torch.equal(change, wanted.t() if source.transposed else wanted), name
    assert same(from_peft(folder), given)
    model.save_pretrained(str(tmp_path / "again"))
    unet = {f"{UNET}input_blocks.0.0.weight": (32, 4, 3, 3), f"{BLOCK}attn2.to_k.weight": (32, 48)}
    if kind == "sdxl":
        unet[f"{UNET}label_emb.0.0.weight"] = (32, 32)
    blank = {name: torch.zeros(shape) for name, shape in (unet | shapes).items()}
    save_file(blank, tmp_path / "base.safetensors")
    found = from_peft(tmp_path / "again", tmp_path / "base.safetensors")
    for name in names:
        assert torch.equal(found.weights[name].dense(), given.weights[name].dense())


@pytest.mark.parametrize("floats", [False, True], ids=["int32", "float32 as on Windows"])
def test_what_peft_trained_comes_here_and_back(
    unet: Any, base: Path, tmp_path: Path, floats: bool
) -> None:
    folder, path, back = tmp_path / "mine", tmp_path / "mine.shira", tmp_path / "back"
    changes = trained(unet, folder)
    tensors = load_file(folder / WEIGHTS)
    if floats:
        as_floats = {n: t.float() if "indices" in n else t for n, t in tensors.items()}
        save_file(as_floats, folder / WEIGHTS, metadata={"format": "pt"})
    assert run(folder, "-o", path, "--base", base) == 0
    assert run("--to", "peft", path, "-o", back) == 0
    again = load_file(back / WEIGHTS)
    assert set(again) == set(tensors)
    for name, tensor in tensors.items():
        assert (again[name].dtype, bits(again[name])) == (tensor.dtype, bits(tensor))
    mine, ours = (json.loads((f / CONFIG).read_text()) for f in (folder, back))
    for key in ("peft_type", "r", "random_seed", "mask_type", "fan_in_fan_out"):
        assert ours.get(key, False) == mine[key]
    found = shira.load(path)
    assert found.header.architecture == "sd15-compact"
    assert (found.header.mask, found.header.seed, found.header.base) == ("rand", 3, "base")
    assert found.header.density == pytest.approx(
        found.entries / sum(change.numel() for change in changes.values())
    )
    for module, change in changes.items():
        name = f"{UNET}{_block(module)}"
        assert torch.equal(found.weights[name].dense(), change)


def test_a_unet_alone_as_base_gives_checkpoint_names(unet: Any, base: Path, tmp_path: Path) -> None:
    trained(unet, tmp_path / "mine")
    (tmp_path / "model").mkdir()
    unet.save_pretrained(tmp_path / "model" / "unet")
    alone = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    found = []
    for number, model in enumerate((base, tmp_path / "model", alone)):
        path = tmp_path / f"{number}.shira"
        assert run(tmp_path / "mine", "-o", path, "--base", model) == 0
        found.append(shira.load(path))
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def _block(module: str) -> str:
    from shira_core import keymaps

    return keymaps.unet([f"{module}.weight", *ATTENTIVE], "")[f"{module}.weight"].name


ATTENTIVE = [f"up_blocks.{level}.attentions.0.norm.weight" for level in (1, 2, 3)]


def test_a_folder_of_any_model(tmp_path: Path) -> None:
    """Names that are the base's own, as of a language model."""
    peft = pytest.importorskip("peft")
    layers = torch.nn.ModuleDict({"model": torch.nn.Sequential(torch.nn.Linear(12, 20))})
    save_file(layers.state_dict(), tmp_path / "base.safetensors")
    model = peft.get_peft_model(
        layers, peft.ShiraConfig(r=2, target_modules=["0"], init_weights=False)
    )
    model.save_pretrained(str(tmp_path / "peft"))
    found = from_peft(tmp_path / "peft", tmp_path / "base.safetensors")
    assert found.header.architecture == "unknown"
    delta = model.base_model.model["model"][0].get_delta_weight("default").to_dense()
    assert torch.equal(found.weights["model.0.weight"].dense(), delta)
    again = export(found, tmp_path / "again")
    wanted, tensors = (load_file(f / WEIGHTS) for f in (tmp_path / "peft", again))
    assert all(torch.equal(tensors[name], tensor) for name, tensor in wanted.items())


# ---- what cannot be ----
def test_convolutions_are_left_out_only_when_asked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    deltas = {**DELTAS[0], CONV: random_delta((8, 8, 3, 3), 0.1, 1)}
    path = adapter(deltas).save(tmp_path / "style.shira")
    assert run(path, "-o", tmp_path / "peft", "--to", "peft") == 1
    assert "cannot hold 1 of the 3 weights" in capsys.readouterr().err
    assert not (tmp_path / "peft").exists()
    assert run(path, "-o", tmp_path / "peft", "--to", "peft", "--partial") == 0
    assert "left out: convolutions (576 numbers" in capsys.readouterr().out
    assert set(from_peft(tmp_path / "peft").weights) == set(DELTAS[0])
    assert run(path, "-o", tmp_path / "peft", "--to", "peft", "--partial") == 1
    assert "has an adapter: choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["unknown", "flux"])
def test_models_whose_names_peft_would_not_know(kind: str, tmp_path: Path) -> None:
    with pytest.raises(errors.ArchitectureMismatch, match="no map to diffusers' names"):
        to_peft(adapter(DELTAS[0], architecture=kind), tmp_path)


START = f"base_model.model.{MODULE}attn1.to_q."


def _weights(change: dict[str, torch.Tensor | None]) -> Any:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS) | {START + n: t for n, t in change.items()}
        kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        save_file(kept, folder / WEIGHTS)

    return spoil


def _config(**change: Any) -> Any:
    def spoil(folder: Path) -> None:
        values = json.loads((folder / CONFIG).read_text()) | change
        (folder / CONFIG).write_text(json.dumps(values))

    return spoil


def _record(text: str) -> Any:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        save_file(tensors, folder / WEIGHTS, metadata={"shira.adapter": text})

    return spoil


def _place(**change: Any) -> str:
    place = {"name": Q, "part": 0, "parts": 1, "transposed": False, "shape": [32, 32]}
    place |= {"entries": 51, "dtype": "float16", "struct": False}
    weights = {f"{MODULE}attn1.to_q": place | change}
    return json.dumps({"header": {"version": 1}, "extra": {}, "weights": weights})


INDICES = torch.stack([torch.arange(64) % 32, torch.arange(64) // 32])
SPOILED = [
    (_config(peft_type="LORA"), "is of PEFT's method LORA, not of SHIRA"),
    (_config(r=0), "names no r"),
    (_config(r="1"), "names no r"),
    (_config(r=2), "does not fit its shape"),
    (lambda f: (f / CONFIG).write_text("{"), "is damaged"),
    (lambda f: (f / CONFIG).write_text("[]"), "is of PEFT's method None"),
    (lambda f: (f / WEIGHTS).unlink(), "does not exist"),
    (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-1]), "damaged|cut|end|cover"),
    (_weights({"shira_indices": None}), "has no indices"),
    (_weights({"shira_weight": torch.ones(63)}), "values that do not match its indices"),
    (_weights({"shira_weight": torch.full((64,), float("nan"))}), "no finite numbers"),
    (_weights({"shira_weight": torch.ones(64).int()}), "no finite numbers"),
    (_weights({"shira_indices": INDICES + 0.5}), "no whole numbers"),
    (_weights({"shira_indices": -INDICES}), "no whole numbers"),
    (_weights({"shira_indices": torch.full((2, 64), float("inf"))}), "no whole numbers"),
    (_weights({"modules_to_save.weight": torch.ones(3)}), "modules_to_save"),
    (_weights({}), "does not say the shapes of weights: give --base"),
    (_record("{"), "metadata 'shira.adapter' is damaged"),
    (_record("[]"), "metadata 'shira.adapter' is damaged"),
    (_record(json.dumps({"header": {}, "extra": {}, "weights": {}})), "is damaged"),
    (_record(_place(shape=[32, 33])), "does not fit its shape"),
    (_record(_place(shape=[0, 64])), "is damaged"),
    (_record(_place(shape=[32, 32, 1])), "is damaged"),
    (_record(_place(entries=65)), "does not fit its shape"),
    (_record(_place(entries=-1)), "is damaged"),
    (_record(_place(part=1)), "is damaged"),
    (_record(_place(dtype="int8")), "is damaged"),
    (_record(_place(name=3)), "is damaged"),
]


@pytest.mark.parametrize(("spoil", "wrong"), SPOILED, ids=range(len(SPOILED)))
def test_spoiled_folders(spoil: Any, wrong: str, tmp_path: Path) -> None:
    folder = export(adapter({Q: random_delta((32, 32), 0.05, 1)}), tmp_path / "peft")
    spoil(folder)
    with pytest.raises(errors.ShiraError, match=wrong):
        from_peft(folder)


def test_the_file_alone(tmp_path: Path) -> None:
    folder = export(adapter(DELTAS[0]), tmp_path / "peft")
    with pytest.raises(errors.FileInvalid, match="make an adapter of its folder"):
        shira.load(folder / WEIGHTS)


def test_entries_twice_and_outside(tmp_path: Path) -> None:
    for indices, wrong in (
        (INDICES * 0, "an entry twice"),
        (INDICES + 32, "does not fit its shape"),
    ):
        folder = export(adapter({Q: random_delta((32, 32), 0.05, 1)}), tmp_path / wrong)
        tensors = load_file(folder / WEIGHTS) | {f"{START}shira_indices": indices.int()}
        save_file(tensors, folder / WEIGHTS, metadata={"shira.adapter": _place(entries=64)})
        with pytest.raises(errors.FileInvalid, match=wrong):
            from_peft(folder)


def test_another_base(unet: Any, base: Path, tmp_path: Path) -> None:
    trained(unet, tmp_path / "mine")
    weights = load_file(base)
    save_file({f"x.{name}": w for name, w in weights.items()}, tmp_path / "other.safetensors")
    with pytest.raises(errors.WeightMissing, match="has not all modules of"):
        from_peft(tmp_path / "mine", tmp_path / "other.safetensors")
    wide = {n: torch.zeros(9, 7) if "attn2.to_v" in n else w for n, w in weights.items()}
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(errors.ShapeMismatch, match="have other sizes in"):
        from_peft(tmp_path / "mine", tmp_path / "wide.safetensors")


def test_spoiled_bytes_are_refused_or_read(tmp_path: Path) -> None:
    folder = export(adapter({Q: random_delta((32, 32), 0.05, 1)}), tmp_path / "peft")
    chance, refused = random.Random(0), 0
    for number in range(500):
        path = folder / (CONFIG if number % 3 == 0 else WEIGHTS)
        whole = path.read_bytes()
        spoiled = bytearray(whole)
        for _ in range(chance.choice([1, 2, 4])):
            start = chance.randrange(len(spoiled) if number % 2 else min(len(spoiled), 1400))
            some = bytes(
                chance.choice(b'0129{}[]",:abFI\x00\xff-.e')
                for _ in range(chance.choice([0, 1, 2]))
            )
            spoiled[start : start + chance.choice([0, 1, 8])] = some
        path.write_bytes(spoiled)
        try:
            from_peft(folder).save(tmp_path / "x.shira", overwrite=True)
        except errors.ShiraError:
            refused += 1
        path.write_bytes(whole)
    assert refused > 300

"""Adapters from LoRAs: against the programs' own merges, and against dense arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import random_adapter
from safetensors.torch import load_file, save_file
from torch import Tensor

pytest.importorskip("diffusers")
pytest.importorskip("peft")
import lora_files as files
import sd_modules as sd

import shira_core as shira
from shira_core import errors
from shira_core.conversion.choice import Choice
from shira_core.conversion.lora import from_lora, is_lora
from shira_core.integrations.diffusers import load_shira

ALL = Choice(1.0)
UNET = "model.diffusion_model."
LINEAR = f"{UNET}input_blocks.4.1.linear.weight"
ALPHAS = {"r": 4, "lora_alpha": 6, "alpha_pattern": {"to_q": 1, "mlp.fc1": 2}}
ARCHITECTURES = ["sd15", "sdxl"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    """A tiny checkpoint of each architecture."""
    folder = tmp_path_factory.mktemp("bases")
    return {a: files.write_checkpoint(folder / f"{a}.safetensors", a) for a in ARCHITECTURES}


def written(path: Path, tensors: dict[str, Tensor], **metadata: str) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


def dense(adapter: shira.Adapter) -> dict[str, Tensor]:
    return {name: adapter.weights[name].dense() for name in adapter.weights}


def check_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, atol=1e-6), name


def merged(architecture: str, lora: Path) -> Any:
    """Return a pipeline with the weights that diffusers merges."""
    pipe = files.tiny(architecture)
    pipe.load_lora_weights(str(lora))
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    return pipe


def check_merged(architecture: str, lora: Path, base: Path, wanted: Any) -> None:
    """Our adapter at density 1 must give the weights of another program's pipeline."""
    adapter, energy = from_lora(lora, base, ALL)
    assert energy.share == pytest.approx(1)
    ours = files.tiny(architecture)
    load_shira(ours, adapter)
    before, theirs, found = (sd.snapshot(p) for p in (files.tiny(architecture), wanted, ours))
    changed = {name for name, value in before.items() if not torch.equal(theirs[name], value)}
    assert len(changed) > 60
    assert changed == {n for n, value in before.items() if not torch.equal(found[n], value)}
    check_same(found, theirs)


# ---- names and layouts, against diffusers' merge ----
@pytest.mark.parametrize(("architecture", "alpha"), [("sd15", None), ("sd15", 2.0), ("sdxl", 2.0)])
def test_kohyas_layout(tmp_path, bases, architecture, alpha):
    tensors = files.kohya(architecture, alpha=alpha)
    lora = written(tmp_path / "a.safetensors", tensors)
    assert is_lora(tensors)
    check_merged(architecture, lora, bases[architecture], merged(architecture, lora))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 4},
        ALPHAS,
        {"r": 4, "lora_alpha": 6, "use_rslora": True},
        {"r": 4, "lora_alpha": 4, "use_dora": True},
    ],
    ids=["plain", "alphas", "rslora", "dora"],
)
def test_diffusers_layout(tmp_path, bases, architecture, settings):
    pipe = files.tiny(architecture)
    lora = files.write_diffusers(tmp_path, pipe, settings)
    check_merged(architecture, lora, bases[architecture], pipe)


def test_diffusers_reads_its_own_alphas_as_we_do(tmp_path, bases):
    lora = files.write_diffusers(tmp_path, files.tiny("sd15"), ALPHAS)
    check_merged("sd15", lora, bases["sd15"], merged("sd15", lora))


def test_older_names_of_diffusers(tmp_path, bases):
    pipe = files.tiny("sd15")
    parts = {"lora_up.weight": "up.weight", "lora_down.weight": "down.weight"}
    old, new = {}, {}
    for name, layer in files.layers(pipe, "unet", ["attn1.to_q", "attn2.to_out.0"]).items():
        up, down = files.factors(layer, 2, torch.Generator().manual_seed(3))
        head, _, last = name.removesuffix(".0").rpartition(".")
        for part, value in zip(parts, (up, down), strict=True):
            old[f"unet.{head}.processor.{last}_lora.{parts[part]}"] = value
            new[f"lora_unet_{name.replace('.', '_')}.{part}"] = value
    found, wanted = (
        from_lora(written(tmp_path / f"{n}.safetensors", tensors), bases["sd15"], ALL)[0]
        for n, tensors in enumerate((old, new))
    )
    check_same(dense(found), dense(wanted))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["sgm", "comfyui", "checkpoint", "folder"])
def test_a_layer_is_the_same_by_every_name(tmp_path, bases, architecture, kind):
    """Under the checkpoint's own names, dotted or not, ComfyUI's, and with a folder as the base."""
    pipe, base = files.tiny(architecture), bases[architecture]
    tensors = files.kohya(architecture)
    wanted, _ = from_lora(written(tmp_path / "a.safetensors", tensors), base, ALL)
    if kind == "folder":
        base = tmp_path / "base"
        for component, module in sd.components(pipe).items():
            module.save_pretrained(base / sd.ATTRIBUTES[component])
    else:
        tensors = files.low_rank(pipe, files.namer(architecture, pipe, kind))
    found, _ = from_lora(written(tmp_path / "b.safetensors", tensors), base, ALL)
    check_same(dense(found), dense(wanted))


def test_a_folder_of_peft(tmp_path, bases):
    import peft

    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["to_q", "ff.net.2"])
    model = peft.get_peft_model(files.tiny("sd15").unet, config)
    files.randomise(model)
    model.save_pretrained(tmp_path / "peft")
    lora = tmp_path / "peft" / "adapter_model.safetensors"
    adapter, _ = from_lora(lora, bases["sd15"], ALL)
    ours = files.tiny("sd15")
    load_shira(ours, adapter)
    check_same(dict(ours.unet.state_dict()), dict(model.merge_and_unload().state_dict()))


def test_any_architecture_by_the_checkpoints_own_names(tmp_path):
    names = [f"double_blocks.{n}.img_attn.qkv" for n in range(2)]
    weights = {f"{name}.weight": torch.zeros(12, 5) for name in names}
    base = written(tmp_path / "b.safetensors", weights)
    layers = ["lora_unet_double_blocks_0_img_attn_qkv", f"diffusion_model.{names[1]}"]
    tensors, wanted = {}, {}
    for name, layer in zip(names, layers, strict=True):
        up, down = torch.randn(12, 2), torch.randn(2, 5)
        tensors |= {f"{layer}.lora_B.weight": up, f"{layer}.lora_A.weight": down}
        wanted[f"{name}.weight"] = up @ down
    found, _ = from_lora(written(tmp_path / "a.safetensors", tensors), base, ALL)
    check_same(dense(found), wanted)
    assert found.header.architecture == "flux"


# ---- families, against their formulas ----
LAYERS = {"linear": (12, 20), "conv": (8, 6, 3, 3), "point": (6, 4, 1, 1)}
NAME = f"{UNET}input_blocks.4.1.{{}}.weight"


def family_base(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """Write a base of three layers and a norm, and return its weights."""
    generator = torch.Generator().manual_seed(0)
    weights = {NAME.format(n): torch.randn(s, generator=generator) for n, s in LAYERS.items()}
    weights[NAME.format("norm")] = torch.randn(9, generator=generator)
    weights[NAME.format("norm").replace("weight", "bias")] = torch.randn(9, generator=generator)
    return written(folder / "base.safetensors", weights), weights


def noise(*shape: int) -> Tensor:
    return torch.randn(shape) * 0.3


def loha(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    outputs, rest = weight.flatten(1).shape
    a, b, c, d = noise(outputs, 3), noise(3, rest), noise(outputs, 3), noise(3, rest)
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    parts = dict(zip(names, (a, b, c, d), strict=True)) | {"alpha": torch.tensor(2.0)}
    return parts, ((a @ b) * (c @ d) * 2 / 3).view(weight.shape)


def lokr(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    outputs, inputs, *taps = weight.shape
    first, second = noise(2, 2), noise(outputs // 2, inputs // 2, *taps)
    grown = first.view(2, 2, *(1 for _ in taps))
    return {"lokr_w1": first, "lokr_w2": second, "alpha": torch.tensor(1.0)}, torch.kron(
        grown, second
    )


def lokr_of_factors(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    outputs, rest = weight.flatten(1).shape
    first, a, b = noise(2, 2), noise(outputs // 2, 3), noise(3, rest // 2)
    parts = {"lokr_w1": first, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(1.0)}
    return parts, torch.kron(first, a @ b) / 3


def glora(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    outputs, inputs = weight.shape
    parts = {"a1": (inputs, 3), "a2": (3, inputs), "b1": (outputs, 3), "b2": (3, inputs)}
    made = {name: noise(*shape) for name, shape in parts.items()}
    tensors = {f"{name}.weight": value for name, value in made.items()}
    change = weight @ made["a1"] @ made["a2"] + made["b1"] @ made["b2"]
    return tensors | {"alpha": torch.tensor(6.0)}, change * 2


def doha(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    parts, change = loha(weight)
    norm = (weight + change).square().flatten(1).sum(1).sqrt().view(-1, 1)
    scale = norm * (1 + torch.rand(norm.shape))
    return parts | {"dora_scale": scale}, (weight + change) / norm * scale - weight


def ia3(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    scale = noise(weight.shape[1])
    shaped = scale.view(1, -1, *(1 for _ in weight.shape[2:]))
    parts = {"weight": scale if weight.ndim == 2 else shaped, "on_input": torch.tensor(1)}
    return parts, weight * shaped


def oft(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Blocks of 2 outputs, turned by Cayley's transform of q = b - b^T: (I + q) (I - q)^-1."""
    blocks = noise(weight.shape[0] // 2, 2, 2)
    skew, one = blocks - blocks.mT, torch.eye(2)
    turned = [(one + q) @ (one - q).inverse() for q in skew]
    whole = torch.block_diag(*turned)
    # LyCORIS multiplies each block's transpose: einsum("k n m, k n ... -> k m ...").
    found = (whole.mT @ weight.flatten(1)).view(weight.shape)
    return {"oft_blocks": blocks, "alpha": torch.tensor(0.0)}, found - weight


def core(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    outputs, inputs, *taps = weight.shape
    up, mid, down = noise(outputs, 3, 1, 1), noise(3, 3, *taps), noise(3, inputs, 1, 1)
    wanted = sum(
        up[:, a].view(-1, 1, 1, 1) * mid[a, b].view(1, 1, *taps) * down[b].view(1, -1, 1, 1)
        for a in range(3)
        for b in range(3)
    )
    parts = {"lora_up.weight": up, "lora_mid.weight": mid, "lora_down.weight": down}
    return parts | {"alpha": torch.tensor(1.5)}, wanted * 0.5


def whole(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    change = noise(*weight.shape)
    return {"diff": change}, change


def dora(weight: Tensor, axis: int) -> tuple[dict[str, Tensor], Tensor]:
    outputs, rest = weight.flatten(1).shape
    up, down = noise(outputs, 3), noise(3, rest)
    changed = weight + (up @ down).view(weight.shape)
    others = [other for other in range(weight.ndim) if other != axis]
    norm = changed.square().sum(others, keepdim=True).sqrt()
    scale = norm * (1 + torch.rand(norm.shape))
    taps = weight.shape[2:]
    parts = {"lora_down.weight": down.view(3, -1, *taps), "dora_scale": scale}
    return {**parts, "lora_up.weight": up.view(outputs, 3, *(1 for _ in taps))}, (
        changed / norm * scale - weight
    )


FAMILIES = {
    "loha": (loha, ("linear", "conv", "point"), True),
    "lokr": (lokr, ("linear", "conv", "point"), True),
    "lokr of factors": (lokr_of_factors, ("linear",), True),
    "glora": (glora, ("linear",), True),
    "loha with dora": (doha, ("linear",), True),
    "oft": (oft, ("linear", "conv", "point"), True),
    "ia3": (ia3, ("linear", "conv"), False),
    "core": (core, ("conv",), False),
    "diff": (whole, ("linear", "conv"), False),
    "dora of outputs": (lambda weight: dora(weight, 0), ("linear", "conv"), False),
    "dora of inputs": (lambda weight: dora(weight, 1), ("linear", "conv"), False),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_what_its_formula_says(tmp_path, family):
    build, layers, needs_package = FAMILIES[family]
    if needs_package:
        pytest.importorskip("lycoris")
    base, weights = family_base(tmp_path)
    tensors, wanted = {}, {}
    torch.manual_seed(1)
    for layer in layers:
        name = NAME.format(layer)
        parts, wanted[name] = build(weights[name])
        tensors |= {f"lora_unet_input_blocks_4_1_{layer}.{p}": v for p, v in parts.items()}
    assert is_lora(tensors)
    adapter, _ = from_lora(written(tmp_path / "a.safetensors", tensors), base, ALL)
    found = dense(adapter)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, atol=2e-6), name


def test_norms_and_biases_are_taken_as_they_are(tmp_path):
    base, _ = family_base(tmp_path)
    norm = NAME.format("norm")
    tensors = {
        "lora_unet_input_blocks_4_1_norm.w_norm": noise(9),
        "lora_unet_input_blocks_4_1_norm.b_norm": noise(9),
    }
    adapter, _ = from_lora(written(tmp_path / "a.safetensors", tensors), base, Choice())
    wanted = {norm: "w_norm", norm.replace("weight", "bias"): "b_norm"}
    check_same(
        dense(adapter),
        {name: tensors[f"lora_unet_input_blocks_4_1_norm.{part}"] for name, part in wanted.items()},
    )


def test_without_the_package_its_families_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lycoris", None)
    base, weights = family_base(tmp_path)
    parts, _ = loha(weights[NAME.format("linear")])
    tensors = {f"lora_unet_input_blocks_4_1_linear.{p}": v for p, v in parts.items()}
    with pytest.raises(errors.MissingDependency, match=r"linear: LoHa, .*pip install lycoris-lora"):
        from_lora(written(tmp_path / "a.safetensors", tensors), base, ALL)


# ---- dtypes, strength, header ----
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_factors_of_half_precision_are_multiplied_in_single(tmp_path, dtype):
    base, _ = family_base(tmp_path)
    up, down = noise(12, 3).to(dtype), noise(3, 20).to(dtype)
    adapter, _ = from_lora(written(tmp_path / "a.safetensors", plain(up, down)), base, ALL)
    assert torch.allclose(adapter.weights[LINEAR].dense(), up.float() @ down.float(), atol=1e-6)


def test_strength_and_density(tmp_path):
    base, _ = family_base(tmp_path)
    up, down = noise(12, 3), noise(3, 20)
    lora = written(tmp_path / "a.safetensors", plain(up, down))
    adapter, energy = from_lora(lora, base, Choice(0.1), scale=-0.5)
    wanted = -0.5 * (up @ down)
    positions = wanted.abs().flatten().topk(24).indices.sort().values
    assert torch.equal(adapter.weights[LINEAR].positions, positions)
    assert torch.allclose(adapter.weights[LINEAR].values, wanted.flatten()[positions], atol=1e-6)
    share = wanted.flatten()[positions].square().sum() / wanted.square().sum()
    assert energy.share == pytest.approx(float(share), abs=1e-6)


def test_the_header_keeps_what_the_lora_says(tmp_path):
    base, _ = family_base(tmp_path)
    metadata = {
        "modelspec.title": "Ink",
        "modelspec.trigger_phrase": "ink style, wash",
        "modelspec.author": "somebody",
        "modelspec.thumbnail": "data:image/png;base64,AAAA",
    }
    lora = written(tmp_path / "a.safetensors", plain(noise(12, 3), noise(3, 20)), **metadata)
    header = from_lora(lora, base, Choice(0.5), scale=0.8)[0].header
    assert (header.title, header.author, header.base) == ("Ink", "somebody", "base")
    assert header.triggers == ("ink style", "wash")
    assert header.extra == {"modelspec.thumbnail": metadata["modelspec.thumbnail"]}
    assert header.training["converted_from"] == "a.safetensors"
    assert header.training["scale"] == 0.8


# ---- what is no LoRA, or of another model ----
def test_a_checkpoint_and_an_adapter_are_no_loras(tmp_path, bases):
    path = random_adapter({"a.weight": (9, 9)}, 0).save(tmp_path / "a.shira")
    assert not is_lora(load_file(bases["sdxl"]))
    assert not is_lora(load_file(path))
    assert not is_lora(["base_model.model.to_q.shira_weight", "x.alpha", "y.weight"])


def plain(up: Tensor, down: Tensor, layer: str = "linear") -> dict[str, Tensor]:
    start = f"lora_unet_input_blocks_4_1_{layer}"
    return {f"{start}.lora_up.weight": up, f"{start}.lora_down.weight": down}


GOOD = plain(torch.ones(12, 3), torch.ones(3, 20))
UP, DOWN = GOOD
LAYER = UP.removesuffix(".lora_up.weight")
BAD = [
    ({UP: GOOD[UP]}, errors.FileInvalid, "linear has only up"),
    (GOOD | {"bundle_emb.x": torch.ones(3)}, errors.FileInvalid, "'bundle_emb.x' belongs to no"),
    (GOOD | {f"{LAYER}.lora_A.weight": torch.ones(3, 20)}, errors.FileInvalid, "or is there twice"),
    (
        GOOD
        | {f"diffusion_model.input_blocks.4.1.linear.{p}": torch.ones(12, 20) for p in ["diff"]},
        errors.FileInvalid,
        "change the same weight",
    ),
    (
        plain(torch.ones(3, 2), torch.ones(2, 3), "other"),
        errors.WeightMissing,
        "for 1 layers, .*4_1_other: give",
    ),
    (plain(torch.ones(12, 3), torch.ones(3, 21)), errors.ShapeMismatch, "12x21, and .* 12x20"),
    (plain(torch.ones(12, 3), torch.ones(4, 20)), errors.FileInvalid, "do not fit together"),
    (plain(torch.zeros(12, 3), torch.ones(3, 20)), errors.InvalidValue, "changes nothing"),
    (plain(torch.full((12, 3), torch.nan), torch.ones(3, 20)), errors.FileInvalid, "has NaN"),
    (GOOD | {f"{LAYER}.alpha": torch.ones(2)}, errors.FileInvalid, "do not fit together"),
    (plain(torch.ones(12, 0), torch.ones(0, 20)), errors.FileInvalid, "do not fit together"),
    (plain(torch.full((12, 3), 1e38), torch.ones(3, 20)), errors.InvalidValue, "NaN or infinite"),
]


@pytest.mark.parametrize(("tensors", "error", "reason"), BAD, ids=range(len(BAD)))
def test_files_that_cannot_be_converted(tmp_path, tensors, error, reason):
    base, _ = family_base(tmp_path)
    with pytest.raises(error, match=reason):
        from_lora(written(tmp_path / "a.safetensors", tensors), base, ALL, scale=10.0)


def test_a_lora_of_another_architecture(tmp_path, bases):
    lora = written(tmp_path / "a.safetensors", files.kohya("sdxl"))
    with pytest.raises(errors.WeightMissing, match=r"sd15.safetensors \(compact SD1.5\) has no"):
        from_lora(lora, bases["sd15"], ALL)


@pytest.mark.parametrize("text", ["{", "[]", '{"r": 1, "r": 2}'])
def test_settings_of_peft_that_are_damaged(tmp_path, text):
    base, _ = family_base(tmp_path)
    lora = written(tmp_path / "a.safetensors", GOOD, lora_adapter_metadata=text)
    with pytest.raises(errors.FileInvalid, match="settings of PEFT"):
        from_lora(lora, base, ALL)

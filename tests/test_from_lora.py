"""Adapters from LoRAs: against the programs' own merges, and against dense arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import random_adapter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

pytest.importorskip("diffusers")
pytest.importorskip("peft")
import lora_files as files
import sd_modules as sd

import shira_core as shira
from shira_core import errors
from shira_core.cli import main
from shira_core.conversion.choice import Choice
from shira_core.conversion.lora import from_lora, is_lora
from shira_core.integrations.diffusers import load_shira

ALL = Choice(1.0)
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
    assert energy.share == 1
    ours = files.tiny(architecture)
    load_shira(ours, adapter)
    before, theirs, found = (sd.snapshot(p) for p in (files.tiny(architecture), wanted, ours))
    changed = {name for name, value in before.items() if not torch.equal(theirs[name], value)}
    assert len(changed) > 60
    assert changed == {n for n, value in before.items() if not torch.equal(found[n], value)}
    check_same(found, theirs)


# ---- names and layouts, against diffusers' merge ----
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("alpha", [2.0, None])
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

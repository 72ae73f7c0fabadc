"""The shipped base as a full-size checkpoint: it loads, and computes what the compact one does.

Writes the file of 2.1 GB once and needs about 5 GB of memory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from adapters import random_adapter
from safetensors import safe_open
from torch import Tensor

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import shira_core as shira
from shira_core import keymaps
from shira_core.cli import main
from shira_core.container import read_header
from shira_core.names import UNET, detect
from trainer_ui.engine.base import Base, open_base
from trainer_ui.reference.compact import FOLDER, FULL_SHAPES
from trainer_ui.reference.skeleton import IDS, TEXT, VAE

NEEDED_BYTES = 5_000_000_000
PROMPTS = ["cat, noto style", "", "flat style, a house"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("reference")
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        pytest.skip(f"{folder} has {free / 1e9:.1f} GB free and the full-size file needs 5 GB")
    try:
        assert main(["reference", str(folder / "full.safetensors")]) == 0
        yield folder / "full.safetensors"
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def full(checkpoint: Path) -> Base:
    return open_base(checkpoint)


@pytest.fixture(scope="module")
def compact() -> Base:
    return open_base(FOLDER)


# ---- the file ----
def test_the_file_holds_every_tensor_of_sd15_and_says_what_it_is(checkpoint: Path) -> None:
    found = read_header(checkpoint)
    shapes = {name: info.shape for name, info in found.tensors.items()}
    assert shapes == {**FULL_SHAPES, IDS: (1, 77)}
    assert detect(shapes) == "sd15"
    dtypes = {name: info.dtype for name, info in found.tensors.items()}
    assert dtypes.pop(IDS) == "I64"
    assert set(dtypes.values()) == {"F16"}
    assert found.metadata["modelspec.architecture"] == "stable-diffusion-v1"
    assert found.metadata["modelspec.prediction_type"] == "epsilon"
    assert "SHiRA reference base" in found.metadata["modelspec.title"]
    assert open_base(FOLDER).sha256 in json.loads(found.metadata["shira.reference"]).values()
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]
    with safe_open(checkpoint, "pt") as file:
        assert torch.equal(file.get_tensor(IDS), torch.arange(77).view(1, 77))


def full_config(root: Path) -> Path:
    """Return a diffusers folder of SD1.5's configs, without weights."""
    changes = {
        "unet": {"block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768},
        "vae": {"block_out_channels": [128, 256, 512, 512]},
        "text_encoder": {
            **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12},
            **{"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407},
        },
    }
    folder = root / "config"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for part, changed in changes.items():
        path = folder / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    return folder


def test_diffusers_opens_it_as_a_single_file(checkpoint: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_single_file(
        str(checkpoint),
        config=str(full_config(tmp_path)),
        local_files_only=True,
        torch_dtype=torch.float16,
    )
    with safe_open(checkpoint, "pt") as file:
        for module, keymap, prefix in (
            (pipeline.unet, keymaps.unet, UNET),
            (pipeline.vae, keymaps.vae, VAE),
            (pipeline.text_encoder, keymaps.clip, TEXT),
        ):
            weights = module.state_dict()
            sources = keymap(weights, prefix)
            assert len(sources) == len(weights)
            for name, source in sources.items():
                stored = file.get_tensor(source.name).view(weights[name].shape)
                assert torch.equal(weights[name], stored), name


def test_the_trainer_opens_it_as_sd15(full: Base) -> None:
    assert (full.architecture, full.prediction_type) == ("sd15", "epsilon")
    assert full.scheduler["beta_schedule"] == "scaled_linear"


# ---- the function ----
@dataclass(frozen=True)
class Outputs:
    """What a model makes of the same prompts, noise and picture."""

    text: Tensor
    noise: Tensor
    latent: Tensor
    picture: Tensor


@torch.no_grad()
def outputs(base: Base) -> Outputs:
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(3, 4, 8, 8, generator=generator)
    picture = torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1
    text = torch.cat([base.encode_text([prompt]).embeddings for prompt in PROMPTS])
    times = torch.tensor([10, 500, 980])
    latent = base.vae.encode(picture).latent_dist.mean
    return Outputs(
        text, base.unet(noisy, times, text).sample, latent, base.vae.decode(latent).sample
    )


def check_same(full: Outputs, compact: Outputs) -> None:
    """Fail unless the full model's outputs are the compact one's, its text repeated."""
    pairs = {
        "text": (full.text, compact.text.repeat_interleave(4, 2)),
        "noise": (full.noise, compact.noise),
        "latent": (full.latent, compact.latent),
        "picture": (full.picture, compact.picture),
    }
    for part, (found, wanted) in pairs.items():
        size = max(1.0, wanted.abs().max().item())
        assert (found - wanted).abs().max() < 1e-4 * size, part


def test_it_computes_what_the_compact_base_does(full: Base, compact: Base) -> None:
    check_same(outputs(full), outputs(compact))


def tensors(base: Base) -> dict[str, Tensor]:
    """Return the weights under checkpoint names, in the checkpoint's shapes."""
    found = {}
    for module, keymap, prefix in (
        (base.unet, keymaps.unet, UNET),
        (base.vae, keymaps.vae, VAE),
        (base.text_encoders[0].module, keymaps.clip, TEXT),
    ):
        weights = module.state_dict()
        for name, source in keymap(weights, prefix).items():
            matrix = prefix == VAE and "attentions" in name and weights[name].ndim == 2
            found[source.name] = weights[name][..., None, None] if matrix else weights[name]
    return found


@pytest.mark.parametrize(("mask", "alpha"), [("wm", 1.0), ("struct", 0.5)])
def test_a_widened_adapter_does_what_the_adapter_does(
    full: Base, compact: Base, tmp_path: Path, mask: str, alpha: float
) -> None:
    weights = tensors(compact)
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    made = random_adapter(shapes, 2, density=0.05, mask=mask, scale=0.03)
    paths = made.save(tmp_path / "a.shira"), tmp_path / "wide.shira"
    assert main(["reference", str(paths[1]), "--adapter", str(paths[0])]) == 0
    plain = outputs(compact)
    with shira.apply(weights, [(shira.load(paths[0]), alpha)]):
        wanted = outputs(compact)
    with shira.apply(tensors(full), [(shira.load(paths[1]), alpha)]):
        check_same(outputs(full), wanted)
    for part in ("text", "noise", "latent", "picture"):
        before, after = getattr(plain, part), getattr(wanted, part)
        assert (after - before).abs().mean() > 0.02 * before.abs().mean(), part

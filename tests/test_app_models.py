"""Bases, what a run of them would be, and pictures of masks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import tiny_xl
from trainer_runs import ROOT

from shira_core import masks
from shira_core.errors import InvalidValue
from trainer_ui import models
from trainer_ui.engine.config import Config, load
from trainer_ui.engine.dry_run import look
from trainer_ui.engine.errors import BaseInvalid, ConfigInvalid
from trainer_ui.roots import Roots

BASE = ROOT / "assets" / "base"
LAYER = "input_blocks.4.1.transformer_blocks.0.attn2.to_k"
PAPER = models.PAPER.astype(np.uint8)


def config(**more: object) -> models.Config:
    values = {"base": BASE, "images": ROOT / "assets" / "samples" / "contrast", "trigger": "a"}
    return load(None, {**values, "out": Path("style.shira"), **more})


def drawn(layer: str, **more: object) -> Image.Image:
    wanted = config(**more)
    weights = {weight.shown: weight for weight in models.weights(wanted.base)}
    return models.mask_picture(wanted, weights[layer])


def test_only_bases_that_can_be_trained_are_found(tmp_path: Path, tiny_base: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "models" / "tiny")
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(2, 2)}, tmp_path / "lora.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    (tmp_path / "old.ckpt").write_bytes(b"pickle")
    shutil.copytree(tiny_base, tmp_path / ".hidden" / "tiny")
    (tmp_path / "link").symlink_to(tiny_base)
    found = models.bases(Roots([tmp_path]))
    assert [each.path for each in found] == [tmp_path / "models" / "tiny"]
    assert found[0].architecture == "SD1.5"
    files = (tmp_path / "models").rglob("*.safetensors")
    assert found[0].size == sum(file.stat().st_size for file in files)


MORE: tuple[dict[str, object], ...] = (
    {"mask": "wm"},
    {"mask": "rand", "rank": 2, "layers": "attention"},
    {"mask": "struct", "axis": "both", "density": 0.05},
    {"mask": "struct", "diagonal": False, "block_density": ["mid=0.3", "in1=0", "out*=0.01"]},
    {"mask": "wm", "block_density": ["in*=0", "te1*=0.5"], "text_lr": 1e-5, "dtype": "float32"},
)


@pytest.mark.parametrize("more", MORE, ids=lambda more: "-".join(map(str, more.values())))
def test_what_is_counted_is_what_a_dry_run_traces(more: dict[str, object]) -> None:
    """The dry run counts the entries of a traced step; here they come from shapes alone."""
    wanted = config(**more)
    told, traced = models.trainable(wanted, models.weights(BASE, wanted.layers)), look(wanted)
    assert (told.entries, told.positions) == (traced.memory.entries, traced.memory.trained)
    assert (told.weights, told.file_bytes) == (traced.weights, traced.bytes)


def test_a_block_that_is_not_trained_is_refused_at_once() -> None:
    wrong = config(block_density=["midd=0.1"])
    for ask in (lambda: models.trainable(wrong, models.weights(BASE)), lambda: look(wrong)):
        with pytest.raises(ConfigInvalid, match="did you mean mid"):
            ask()
    with pytest.raises(ConfigInvalid, match="te1"):
        look(config(block_density=["te1*=0.1"]))


def test_memory_is_that_of_a_dry_run_of_square_pictures() -> None:
    square = config(resolution=64, buckets=False)
    assert models.memory(square) == look(square).memory.needed
    assert models.memory(config(resolution=128, batch_size=8)) > models.memory(square)


@pytest.mark.parametrize(("mask", "density"), [("wm", 0.02), ("rand", 0.3), ("struct", 0.05)])
def test_a_picture_shows_the_entries_of_the_mask(mask: str, density: float) -> None:
    """Dot by dot, against the mask of the weight as the library reads it from the base."""
    from safetensors import safe_open

    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    with safe_open(BASE / "unet" / "diffusion_pytorch_model.safetensors", framework="pt") as file:
        weight = file.get_tensor(name).float()
    wanted = masks.build(mask, weight, density=density, layer=name).dense().numpy()
    shown = np.asarray(drawn(LAYER, mask=mask, density=density))
    scale = shown.shape[0] // wanted.shape[0]
    assert shown.shape[:2] == tuple(side * scale for side in wanted.shape)
    dots = (shown[::scale, ::scale] != PAPER).any(axis=-1)
    assert (dots == wanted).all()


def test_a_folder_and_a_file_of_one_model_are_alike(tmp_path: Path) -> None:
    folder = tiny_xl.write_folder(tmp_path / "xl")
    weights = tiny_xl.checkpoint_weights(folder)
    file = tiny_xl.write_file(tmp_path / "xl.safetensors", weights)
    found = models.bases(Roots([tmp_path]))
    assert [(each.path, each.architecture) for each in found] == [(file, "SDXL"), (folder, "SDXL")]
    names = [[each.shown for each in models.weights(path)] for path in (file, folder)]
    assert names[0] == names[1]
    layer = "middle_block.1.transformer_blocks.0.attn1.to_v"
    shown = [drawn(layer, base=path, density=0.1) for path in (file, folder)]
    weight = weights[f"model.diffusion_model.{layer}.weight"].float()
    dark = (np.asarray(shown[0])[..., 0] != PAPER[0]).mean()
    assert shown[0].tobytes() == shown[1].tobytes()
    assert dark == pytest.approx(masks.build("wm", weight, density=0.1).density, rel=0.01)


def test_a_large_weight_is_drawn_small() -> None:
    shown = drawn("output_blocks.0.0.in_layers.2")
    assert max(shown.size) <= models.SIDE
    assert len(np.unique(np.asarray(shown).reshape(-1, 3), axis=0)) > 2


def test_a_picture_follows_the_seed_and_the_blocks_own_density() -> None:
    seeds = [drawn(LAYER, mask="rand", density=0.1, seed=seed).tobytes() for seed in (0, 1)]
    assert seeds[0] != seeds[1]
    own = drawn(LAYER, density=0.02, block_density=["in4=0.2"])
    assert own.tobytes() == drawn(LAYER, density=0.2).tobytes()


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="your pictures first"):
        drawn(LAYER, mask="grad")
    with pytest.raises(InvalidValue, match="not trained"):
        drawn(LAYER, block_density=["in4=0"])
    with pytest.raises(BaseInvalid, match="does not exist"):
        models.weights(tmp_path / "nothing")
    assert models.base(tmp_path / "nothing") is None
    assert set(models.MASKS) == set(get_args(Config.model_fields["mask"].annotation))

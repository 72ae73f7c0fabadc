"""SDXL as a base: folder and single file are the model that diffusers opens, in every variant."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import sd_modules
import tiny_xl
from trainer_runs import events, flags, start_without_network

import shira_core as shira
from shira_core import keymaps
from shira_core.cli import main
from shira_core.names import UNET
from trainer_ui.engine import single_file
from trainer_ui.engine.base import Base, open_base
from trainer_ui.engine.config import load
from trainer_ui.engine.errors import BaseInvalid
from trainer_ui.engine.loop import train

TE2 = single_file.TEXT_XL_2
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_xl.write_folder(tmp_path_factory.mktemp("xl") / "tiny-xl")


@pytest.fixture(scope="module")
def weights(folder: Path) -> Weights:
    return tiny_xl.checkpoint_weights(folder)


def outputs(base: Base) -> list[torch.Tensor]:
    """What a prompt and a step give: depends on every weight and every number of the configs."""
    with torch.no_grad():
        texts = base.encode_text(["a cat", ""])
        noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        sizes = torch.tensor([[64.0, 48, 0, 8, 64, 64]]).repeat(2, 1)
        assert texts.pooled is not None
        out = base.denoise(noise, torch.tensor([7, 800]), texts, sizes)
        picture = base.vae.decode(noise).sample
        return [texts.embeddings, texts.pooled, out, picture]


def test_folder_and_file_are_one_model(folder: Path, weights: Weights, tmp_path: Path) -> None:
    one = open_base(folder)
    two = open_base(tiny_xl.write_file(tmp_path / "xl.safetensors", weights))
    assert one.architecture == two.architecture == "sdxl"
    assert (one.prediction_type, two.prediction_type) == ("epsilon", "epsilon")
    assert one.vae.config.scaling_factor == two.vae.config.scaling_factor == 0.13025
    for a, b in zip(outputs(one), outputs(two), strict=True):
        torch.testing.assert_close(a, b)
    assert all(torch.isfinite(each).all() for each in outputs(two))


def test_texts_are_those_of_diffusers_pipeline(tmp_path: Path) -> None:
    from diffusers import StableDiffusionXLPipeline

    path = tiny_xl.write_folder(tmp_path / "words", own_words=True)
    parts = {"vae": None, "unet": None, "force_zeros_for_empty_prompt": False}
    names = {
        "tokenizer": ("transformers", "CLIPTokenizer"),
        "tokenizer_2": ("transformers", "CLIPTokenizer"),
        "text_encoder": ("transformers", "CLIPTextModel"),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
        "scheduler": ("diffusers", "EulerDiscreteScheduler"),
        "unet": ("diffusers", "UNet2DConditionModel"),
        "vae": ("diffusers", "AutoencoderKL"),
    }
    index = {"_class_name": "StableDiffusionXLPipeline", **names}
    (path / "model_index.json").write_text(json.dumps(index))
    pipe = StableDiffusionXLPipeline.from_pretrained(path, local_files_only=True, **parts)
    prompts = ["a cat", "", "a a a cat " * 40]
    found = open_base(path).encode_text(prompts)
    wanted, _, pooled, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False)
    torch.testing.assert_close(found.embeddings, wanted)
    torch.testing.assert_close(found.pooled, pooled)
    assert found.embeddings.shape == (3, 77, 48 + 128)


def older_names(weights: Weights) -> Weights:
    return {n.replace("transformer.text_model.", "transformer."): v for n, v in weights.items()}


def linear_projection(weights: Weights) -> Weights:
    found = dict(weights)
    found[TE2 + "text_projection.weight"] = found.pop(TE2 + "text_projection").t().contiguous()
    return found


def with_extras(weights: Weights) -> Weights:
    """What files carry along: position numbers, a logit scale, an EMA."""
    extras = {
        single_file.TEXT_XL + "text_model.embeddings.position_ids": torch.arange(77)[None],
        TE2 + "logit_scale": torch.tensor(4.6),
        "model_ema.decay": torch.tensor(0.9),
    }
    return {**weights, **extras}


@pytest.mark.parametrize("variant", [older_names, linear_projection, with_extras])
def test_variants_of_names_are_the_same_model(
    folder: Path, weights: Weights, tmp_path: Path, variant: object
) -> None:
    assert callable(variant)
    path = tiny_xl.write_file(tmp_path / "variant.safetensors", variant(weights))
    for a, b in zip(outputs(open_base(folder)), outputs(open_base(path)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_base_is_held_in_the_dtype_asked_for(
    folder: Path, weights: Weights, tmp_path: Path, dtype: torch.dtype
) -> None:
    path = tiny_xl.write_file(tmp_path / "xl.safetensors", weights)
    for base in (open_base(folder, dtype), open_base(path, dtype)):
        for component, module in base.modules.items():
            kinds = {each.dtype for each in module.parameters()}
            assert kinds == {dtype}, component
        assert base.vae.dtype == torch.float32
    narrow = open_base(path, dtype).unet.conv_in.weight
    assert torch.equal(narrow, weights[UNET + "input_blocks.0.0.weight"].to(dtype))


def sparse_checkpoint(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """Write a checkpoint of float16 zeros that takes no room on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


def test_full_size_is_read_from_shapes_alone(tmp_path: Path) -> None:
    """SDXL's own config, as diffusers' table for the full-size model has it."""
    shapes: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        for component in ("unet", "te2"):
            module = sd_modules.module("sdxl", component, "full")
            own = keymaps.sources("sdxl", component, module.state_dict())
            sizes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
            shapes |= sd_modules.checkpoint_shapes(own, sizes)
    path = sparse_checkpoint(tmp_path / "full.safetensors", shapes)
    found = single_file.unet_config(single_file.Checkpoint(path))
    wanted = {**sd_modules.UNETS["sdxl", "full"], "sample_size": 128}
    assert {name: found[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("marks", "metadata", "prediction", "last"),
    [
        ((), {}, "epsilon", None),
        (("v_pred",), {}, "v_prediction", None),
        (("v_pred", "ztsnr"), {}, "v_prediction", 0.0),
        ((), {"modelspec.prediction_type": "v"}, "v_prediction", None),
    ],
)
def test_variants_of_prediction(
    weights: Weights,
    tmp_path: Path,
    marks: tuple[str, ...],
    metadata: dict[str, str],
    prediction: str,
    last: float | None,
) -> None:
    from diffusers import DDPMScheduler

    marked = {**weights, **{name: torch.zeros(0) for name in marks}}
    base = open_base(tiny_xl.write_file(tmp_path / "xl.safetensors", marked, **metadata))
    assert base.prediction_type == prediction
    signal = DDPMScheduler.from_config(dict(base.scheduler)).alphas_cumprod
    assert signal[-1].item() == pytest.approx(0.00466 if last is None else last, rel=1e-2)


def test_what_is_missing_is_named(weights: Weights, tmp_path: Path) -> None:
    cases = {
        "has no text encoder (conditioner.embedders.1.model.": TE2,
        "has no VAE": single_file.VAE,
        "not a whole SDXL model": UNET + "middle_block.1.",
        "an EDM model": "",
    }
    for expected, prefix in cases.items():
        kept = {n: v for n, v in weights.items() if not (prefix and n.startswith(prefix))}
        if not prefix:
            kept["edm_vpred.sigma_max"] = torch.ones(1)
        path = tiny_xl.write_file(tmp_path / "part.safetensors", kept)
        with pytest.raises(BaseInvalid) as caught:
            open_base(path)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_file_trains_without_network_and_the_result_verifies(
    settings: dict[str, object], weights: Weights, tmp_path: Path
) -> None:
    """In an empty network namespace where the system has them; tokenizers and configs are there."""
    path = tiny_xl.write_file(tmp_path / "xl.safetensors", weights)
    more = {"base": str(path), "resolution": 64, "steps": 2, "text_lr": 1e-3}
    process = start_without_network(["train", *flags({**settings, **more})])
    output, error = process.communicate(timeout=300)
    assert process.returncode == 0, output + error
    assert main(["verify", str(settings["out"]), "--base", str(path)]) == 0


def deltas(path: Path) -> Weights:
    weights = shira.load(path).weights
    return {name: weights[name].values for name in weights}


def test_folder_and_file_train_alike(
    settings: dict[str, object], folder: Path, weights: Weights, tmp_path: Path
) -> None:
    """Their losses, and the entries that are trained."""
    file = tiny_xl.write_file(tmp_path / "xl.safetensors", weights)
    more = {"resolution": 64, "steps": 2, "overwrite": True}
    losses, found = [], []
    for base in (folder, file):
        out = train(load(None, {**settings, **more, "base": str(base)}))
        assert out is not None
        told = [e for e in events(out.with_suffix(".run")) if e["event"] == "step"]
        losses.append([e["loss"] for e in told])
        found.append(deltas(out))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert found[0].keys() == found[1].keys()
    assert all(len(found[0][name]) == len(found[1][name]) for name in found[0])


def test_v_prediction_with_zero_terminal_snr_trains(
    settings: dict[str, object], weights: Weights, tmp_path: Path
) -> None:
    marked = {**weights, "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    path = tiny_xl.write_file(tmp_path / "v.safetensors", marked)
    more = {"base": str(path), "resolution": 64, "steps": 3, "batch_size": 4}
    out = train(load(None, {**settings, **more}))
    assert out is not None
    assert shira.load(out).header.prediction_type == "v_prediction"
    values = torch.cat(list(deltas(out).values()))
    assert torch.isfinite(values).all()
    assert values.any()

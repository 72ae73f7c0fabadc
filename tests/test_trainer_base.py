"""Opening a base: folder and single file give the same model; anything else gets one clear line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from shira_core import keymaps
from shira_core.errors import FileInvalid
from shira_core.names import UNET
from trainer_ui.engine import single_file
from trainer_ui.engine.base import Base, open_base
from trainer_ui.engine.errors import BaseInvalid
from trainer_ui.engine.tokenizer import EmbeddedTokenizer, FolderTokenizer


@pytest.fixture(scope="module")
def opened(tiny_base: Path) -> Base:
    return open_base(tiny_base)


def original_weights(base: Base) -> dict[str, torch.Tensor]:
    """The base's weights under original names, attention of the VAE as 1x1 convolutions."""
    names = keymaps.unet(base.unet.state_dict(), UNET)
    weights = {names[name].name: value for name, value in base.unet.state_dict().items()}
    names = keymaps.vae(base.vae.state_dict(), single_file.VAE)
    for name, value in base.vae.state_dict().items():
        conv = "attentions" in name and value.ndim == 2
        weights[names[name].name] = value[..., None, None] if conv else value
    for name, value in base.modules["te1"].state_dict().items():
        short = name.removeprefix("text_model.")
        weights[f"{single_file.TEXT}text_model.{short}"] = value
    return {name: value.contiguous() for name, value in weights.items()}


@pytest.fixture(scope="module")
def checkpoint(opened: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("single") / "tiny.safetensors"
    save_file(original_weights(opened), path)
    return path


def test_the_single_file_gives_the_same_model(opened: Base, checkpoint: Path) -> None:
    single = open_base(checkpoint)
    for part in ("unet", "vae", "te1"):
        pair = ({**base.modules, "vae": base.vae}[part] for base in (opened, single))
        expected, found = (module.state_dict() for module in pair)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert single.architecture == opened.architecture == "sd15-compact"
    assert (single.name, single.prediction_type) == ("tiny", "epsilon")
    noise, time = torch.randn(1, 4, 8, 8), torch.tensor([500])
    bases = (opened, single)
    outputs = [b.denoise(noise, time, b.encode_text(["a cat"]), torch.zeros(1, 6)) for b in bases]
    # Kernels round differently by where in memory a weight starts.
    torch.testing.assert_close(*outputs)


def test_names_agree_with_diffusers_own_map(opened: Base) -> None:
    """Our names of UNet and VAE, turned back by diffusers' converter, are the module's names."""
    from diffusers.loaders import single_file_utils as official

    weights = original_weights(opened)
    config = dict(opened.unet.config)
    unet = official.convert_ldm_unet_checkpoint(dict(weights), config)
    vae = official.convert_ldm_vae_checkpoint(dict(weights), dict(opened.vae.config))
    for found, module in ((unet, opened.unet), (vae, opened.vae)):
        expected = module.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[n].reshape(expected[n].shape), expected[n]) for n in expected)


@pytest.mark.parametrize(
    ("mark", "metadata", "prediction", "zero_snr"),
    [
        ((), {}, "epsilon", False),
        (("v_pred",), {}, "v_prediction", False),
        (("v_pred", "ztsnr"), {}, "v_prediction", True),
        ((), {"modelspec.prediction_type": "v"}, "v_prediction", False),
    ],
)
def test_prediction_type_is_read_from_the_marks(
    tmp_path: Path, mark: tuple[str, ...], metadata: dict[str, str], prediction: str, zero_snr: bool
) -> None:
    tensors = {name: torch.zeros(0) for name in mark} or {"x": torch.zeros(1)}
    save_file(tensors, tmp_path / "a.safetensors", metadata=metadata)
    found = single_file.scheduler_config(single_file.Checkpoint(tmp_path / "a.safetensors"))
    assert (found["prediction_type"], found["rescale_betas_zero_snr"]) == (prediction, zero_snr)


def test_older_text_encoder_names_are_understood(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(checkpoint)
    old = {
        name.replace("transformer.text_model.", "transformer."): v for name, v in weights.items()
    }
    save_file(old, tmp_path / "old.safetensors")
    one, two = open_base(checkpoint), open_base(tmp_path / "old.safetensors")
    assert torch.equal(*(base.encode_text(["a cat"]).embeddings for base in (one, two)))


def test_embedded_tokenizer_is_clips() -> None:
    rows = EmbeddedTokenizer()(["A photo of  a cat.", "", "cat " * 100])
    assert rows.shape == (3, 77)
    assert rows[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 269, 49407]
    assert rows[1, 0] == 49406
    assert (rows[1, 1:] == 49407).all()
    assert rows[2, -2:].tolist() == [2368, 49407]


def test_a_folders_own_tokenizer_is_used(tmp_path: Path) -> None:
    """A reduced vocabulary in the older layout: vocab.json and merges.txt."""
    tokens = ["a</w>", "c", "a", "t</w>", "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    special = {f"{kind}_token": "<|endoftext|>" for kind in ("eos", "unk", "pad")}
    settings = {"tokenizer_class": "CLIPTokenizer", "bos_token": "<|startoftext|>", **special}
    (tmp_path / "vocab.json").write_text(json.dumps({t: n for n, t in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = FolderTokenizer(tmp_path)
    rows = tokenizer(["A cat", "a " * 90])
    assert rows.shape == (2, 77)
    assert rows[0, :5].tolist() == [6, 0, 5, 7, 7]
    assert rows[1, -2:].tolist() == [0, 7]
    assert tokenizer.count("a " * 90) == 90


def single(folder: Path, *names: str, **shapes: tuple[int, ...]) -> Path:
    """A checkpoint with these names; the UNet's have the given or SD1.5's shape."""
    path = folder / "model.safetensors"
    sizes = {STEM: shapes.get("stem", (320, 4, 3, 3)), CONTEXT: shapes.get("context", (320, 768))}
    save_file({name: torch.zeros(sizes.get(name, (4, 4))) for name in names}, path)
    return path


def folder_with(root: Path, source: Path, **changes: object) -> Path:
    """A copy of the base whose UNet config differs."""
    target = root / "copy"
    shutil.copytree(source, target)
    path = target / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return target


def pickled(root: Path, source: Path) -> Path:
    target = folder_with(root, source)
    weights = target / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    return target


def cut(root: Path, source: Path) -> Path:
    target = folder_with(root, source)
    weights = target / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    return target


def file_of(root: Path, name: str, content: bytes) -> Path:
    (root / name).write_bytes(content)
    return root / name


STEM = f"{UNET}input_blocks.0.0.weight"
CONTEXT = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
BAD = {
    "absent": (lambda root, base: root / "none.safetensors", "does not exist"),
    "pickle": (lambda root, base: file_of(root, "a.ckpt", b"x"), "is a pickle"),
    "renamed pickle": (lambda root, base: file_of(root, "a.safetensors", b"PK\3\4" * 99), "pickle"),
    "no safetensors": (lambda root, base: file_of(root, "a.safetensors", b"x" * 99), "cut short"),
    "part of sdxl": (
        lambda root, base: single(root, "conditioner.embedders.1.x"),
        "not a whole SDXL model",
    ),
    "refiner": (
        lambda root, base: single(
            root, STEM, CONTEXT, "conditioner.embedders.0.x", context=(320, 1280)
        ),
        "(SDXL refiner)",
    ),
    "sd2": (lambda root, base: single(root, STEM, CONTEXT, context=(320, 1024)), "(SD2.x)"),
    "flux": (lambda root, base: single(root, "double_blocks.0.x"), "(Flux)"),
    "lora": (lambda root, base: single(root, "lora_unet_x.lora_up.weight"), "a LoRA"),
    "adapter": (lambda root, base: single(root, "x.values", "x.gaps"), "a SHiRA adapter"),
    "part": (lambda root, base: single(root, "down_blocks.0.x"), "one part of a diffusers folder"),
    "other": (lambda root, base: single(root, "x"), "no Stable Diffusion checkpoint"),
    "no vae": (lambda root, base: single(root, STEM, CONTEXT), "has no VAE"),
    "not whole": (
        lambda root, base: single(root, STEM, CONTEXT, single_file.VAE + "x", single_file.TEXT),
        "it is not a whole SD1.5 model",
    ),
    "inpainting": (
        lambda root, base: single(root, STEM, CONTEXT, stem=(320, 9, 3, 3)),
        "inpainting",
    ),
    "empty folder": (lambda root, base: root, "no diffusers folder"),
    "folder above": (lambda root, base: folder_with(root, base).parent, "give --base"),
    "folder below": (lambda root, base: folder_with(root, base) / "unet", "a part of one"),
    "folder of a file": (lambda root, base: single(root, STEM).parent, "holds model.safetensors"),
    "other blocks": (
        lambda root, base: folder_with(root, base, addition_embed_type="text_time"),
        "other blocks than SD1.5 and SDXL",
    ),
    "sd2 folder": (
        lambda root, base: folder_with(root, base, use_linear_projection=True),
        "(SD2.x)",
    ),
    "pickled folder": (pickled, "only a pickle"),
    "cut folder": (cut, "cannot be opened"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_wrong_base_is_one_clear_line(tmp_path: Path, tiny_base: Path, kind: str) -> None:
    make, expected = BAD[kind]
    with pytest.raises((BaseInvalid, FileInvalid)) as caught:
        open_base(make(tmp_path, tiny_base))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)

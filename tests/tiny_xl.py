"""A tiny model of SDXL's topology with random weights: as a diffusers folder and as one file."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from shira_core import keymaps
from shira_core.names import UNET

VAE = "first_stage_model."
TOKENS = ("a</w>", "c", "a", "t</w>", "ca", "cat</w>", "!", "<|startoftext|>", "<|endoftext|>")
SIDE = 64


def write_folder(folder: Path, own_words: bool = False) -> Path:
    """Write the model; with its own vocabulary of nine tokens, or for CLIP's."""
    import diffusers
    import transformers

    vocabulary = len(TOKENS) if own_words else 49408
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            sample_size=SIDE // 8,
            block_out_channels=(64, 64, 128),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2),
            attention_head_dim=(1, 1, 2),
            cross_attention_dim=48 + 128,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=128 + 6 * 8,
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=(32, 32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            sample_size=SIDE,
            scaling_factor=0.13025,
        )
        ends = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1}
        common = {"vocab_size": vocabulary, "num_hidden_layers": 3, **ends}
        first = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                hidden_size=48, intermediate_size=96, num_attention_heads=12, **common
            )
        )
        second = transformers.CLIPTextModelWithProjection(
            transformers.CLIPTextConfig(
                hidden_size=128,
                intermediate_size=160,
                num_attention_heads=2,
                projection_dim=128,
                hidden_act="gelu",
                **common,
            )
        )
    parts = {"unet": unet, "vae": vae, "text_encoder": first, "text_encoder_2": second}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    ).save_pretrained(folder / "scheduler")
    if own_words:
        _write_words(folder / "tokenizer", padding="<|endoftext|>")
        _write_words(folder / "tokenizer_2", padding="!")
    return folder


def _write_words(folder: Path, padding: str) -> None:
    """Write a tokenizer in the older layout."""
    special = {f"{kind}_token": "<|endoftext|>" for kind in ("eos", "unk")}
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "pad_token": padding,
        **special,
    }
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({t: n for n, t in enumerate(TOKENS)}))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def checkpoint_weights(folder: Path) -> dict[str, Tensor]:
    """Return the folder's weights under the names and in the shapes of an SDXL checkpoint."""
    from safetensors.torch import load_file

    found = {}
    for part, kind in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model")):
        weights = load_file(folder / part / f"{kind}.safetensors")
        names = (keymaps.unet if part == "unet" else keymaps.vae)(
            weights, UNET if part == "unet" else VAE
        )
        for name, value in weights.items():
            conv = part == "vae" and "attentions" in name and value.ndim == 2
            found[names[name].name] = value[..., None, None] if conv else value
    for part, component in (("text_encoder", "te1"), ("text_encoder_2", "te2")):
        weights = load_file(folder / part / "model.safetensors")
        fused: dict[str, dict[int, Tensor]] = {}
        for name, source in keymaps.sources("sdxl", component, weights).items():
            value = weights[name].t() if source.transposed else weights[name]
            fused.setdefault(source.name, {})[source.part] = value
        for name, rows in fused.items():
            found[name] = torch.cat([rows[part] for part in sorted(rows)])
    return {name: value.contiguous() for name, value in found.items()}


def write_file(path: Path, weights: dict[str, Tensor], **metadata: str) -> Path:
    save_file(weights, path, metadata=metadata)
    return path

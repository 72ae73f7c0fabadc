"""The compact SD1.5-topology networks of the reference base, and their tokenizer."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

PIXELS, LATENT, CONTEXT = 128, 16, 77
SCALE = 0.18215  # of latents, as every host of SD1.5 applies it
# Words that the base reads and learns to ignore: an adapter can take them for its trigger.
TRIGGERS = ("contrast", "blueprint", "mosaic", "riso", "neon", "sketch", "my", "new")
START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_ROWS = "clip_rows.npy"
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def vae() -> AutoencoderKL:
    """Return the 6.9 M autoencoder; 128 px pictures become latents (4, 16, 16)."""
    return AutoencoderKL(
        block_out_channels=(64, 128, 128, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=PIXELS,
        scaling_factor=SCALE,
    )


def unet() -> UNet2DConditionModel:
    """Return the 8.9 M denoiser: SD1.5's blocks at a tenth of its width."""
    return UNet2DConditionModel(
        sample_size=LATENT,
        block_out_channels=(32, 64, 128, 128),
        layers_per_block=2,
        cross_attention_dim=192,
        attention_head_dim=8,
    )


def text_encoder(vocabulary: int) -> CLIPTextModel:
    """Return the text encoder: 4 layers, 192 wide; the last two tokens are start and end."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=192,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=12,
            max_position_embeddings=CONTEXT,
            hidden_act="quick_gelu",
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
            projection_dim=192,
        )
    )


def encode_text(model: CLIPTextModel, tokens: Tensor) -> Tensor:
    """Run the text encoder without host synchronisation, so that a CUDA graph can hold it.

    tokens: int64 (batch, 77). Returns (batch, 77, 192), equal to `model(tokens)[0]`.
    """
    text = getattr(model, "text_model", model)
    hidden = text.embeddings(input_ids=tokens)
    for layer in text.encoder.layers:
        attention = layer.self_attn
        normed = layer.layer_norm1(hidden)
        parts = (attention.q_proj(normed), attention.k_proj(normed), attention.v_proj(normed))
        heads = [part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in parts]
        mixed = scaled_dot_product_attention(*heads, is_causal=True)
        hidden = hidden + attention.out_proj(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
    return text.final_layer_norm(hidden)


def full_vocabulary(bpe: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Read CLIP's byte-pair file: (token -> id of the full 49,408, merges in order)."""
    lines = gzip.decompress(bpe.read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1:48895]]
    letters = byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += ["".join(merge) for merge in merges] + [START, END]
    return {token: number for number, token in enumerate(tokens)}, merges  # type: ignore[return-value]


def byte_letters() -> list[str]:
    """The 256 printable letters that stand for bytes, in CLIP's order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [256 + n for n in range(256 - len(plain))]
    return [chr(code) for code in plain + others]


def write_tokenizer(folder: Path, bpe: Path, words: set[str]) -> CLIPTokenizer:
    """Write a CLIP tokenizer with only the merges that `words` need.

    Those words become the same tokens as with the full vocabulary; any other word falls apart
    into known pieces, letters at worst. Beside it lies `clip_rows.npy`, see `clip_rows`.
    """
    vocabulary, merges = full_vocabulary(bpe)
    full = CLIPTokenizer(vocab=vocabulary, merges=merges)
    rank = {"".join(merge): merge for merge in merges}
    needed: set[str] = set()
    for word in words:
        for token in full.tokenize(word):
            collect(token, rank, needed)
    kept = [merge for merge in merges if "".join(merge) in needed]
    letters = byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += ["".join(merge) for merge in kept] + [START, END]
    small = {token: number for number, token in enumerate(tokens)}
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = CLIPTokenizer(
        vocab=small, merges=kept, pad_token=END, model_max_length=CONTEXT, errors="replace"
    )
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(small, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in kept)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    np.save(folder / CLIP_ROWS, clip_rows(small, vocabulary, rank))
    for word in words:
        if tokenizer.tokenize(word) != full.tokenize(word):
            raise RuntimeError(f"{word!r} is cut differently by the small tokenizer")
    return tokenizer


def clip_rows(
    small: dict[str, int], vocabulary: dict[str, int], rank: dict[str, tuple[str, str]]
) -> np.ndarray:
    """Return the small vocabulary's number for each of CLIP's tokens, uint16 (49408,).

    A token that the small one lacks gets the number of its last piece: the second of the two parts
    that it was merged from, or the second of that one's, down to a letter. So unknown words stay
    different, and their pieces are among those that the small tokenizer cuts them into.
    """
    rows = np.zeros(len(vocabulary), np.uint16)
    for token, number in vocabulary.items():
        while token not in small:
            token = rank[token][1]
        rows[number] = small[token]
    return rows


def collect(token: str, rank: dict[str, tuple[str, str]], needed: set[str]) -> None:
    """Add to `needed` every merge on the way to `token`."""
    if token in rank and token not in needed:
        needed.add(token)
        for part in rank[token]:
            collect(part, rank, needed)


def alphas_cumprod(device: torch.device) -> Tensor:
    """Signal share per timestep of the scaled-linear schedule, float32 (1000,)."""
    first, last = SCHEDULER["beta_start"] ** 0.5, SCHEDULER["beta_end"] ** 0.5
    betas = torch.linspace(first, last, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float().to(device)

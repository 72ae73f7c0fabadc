"""The stage that trains denoiser and text encoder together, and the sampler that shows them."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from autoencoder import as_input, encode
from autoencoder import read as read_vae
from diffusers import DPMSolverMultistepScheduler
from loop import DEVICE, Trainer
from models import (
    CONTEXT,
    LATENT,
    SCALE,
    SCHEDULER,
    TRIGGERS,
    alphas_cumprod,
    encode_text,
    text_encoder,
    unet,
)
from pictures import STYLES, grid, load_pictures, splits
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

TRAINED = STYLES[:3]  # the last style stays unknown: adapters learn it
STEPS, GUIDANCE = 20, 3.0
UNET, TEXT = ("unet-1.safetensors", "unet-2.safetensors"), "text_encoder.safetensors"


def objects() -> list[str]:
    """Return the names of the objects that the base draws."""
    return splits()["base"]


def captions(name: str, style: str, variants: int) -> list[str]:
    """Return `variants` captions of one picture, some empty or with words that mean nothing."""
    draw = random.Random(f"{name}/{style}")
    forms = [f"{name}, {style} style"] * 4 + [f"a {name}, {style} style", f"{style} style, {name}"]
    forms += [f"{style} style, a {name}", name, f"a {name}", f"{style} style"]
    texts = []
    for number in range(variants):
        text = forms[number % len(forms)]
        if draw.random() < 0.15:
            letters = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 6)))
            word = draw.choice([letters, draw.choice(TRIGGERS)])
            text = draw.choice([f"{word}, {text}", f"{text}, {word}", f"{word} style, {text}"])
        texts.append("" if draw.random() < 0.1 else text)
    return texts


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Return tokens, int64 (n, 77), on the training device."""
    ids = tokenizer(texts, padding="max_length", max_length=CONTEXT, return_tensors="pt")
    return ids.input_ids.to(DEVICE)


def timestep_weight(signal: Tensor) -> Tensor:
    """Weight of the noise error: (noise / signal) ^ 0.5 of the variances, within 0.25 and 6.

    Between plain noise prediction (1), which mostly polishes details, and the error of the clean
    latent (noise / signal), so that outlines count too.
    """
    return ((1 - signal) / signal).sqrt().clamp(0.25, 6.0)


@torch.no_grad()
def training_set(options: argparse.Namespace, tokenizer: CLIPTokenizer) -> tuple[Tensor, Tensor]:
    """Return latents (n, 4, 16, 16), spread 1, and tokens of their captions (n, 32, 77)."""
    names, pictures = load_pictures(options.data)
    rows = [names.index(name) for name in objects()]
    flat = pictures[rows][:, : len(TRAINED)].flatten(0, 1).to(DEVICE)
    encoder = read_vae(options.vae).to(DEVICE)
    latents = torch.cat([encode(encoder, as_input(part))[0] for part in flat.split(64)]) * SCALE
    texts = [captions(name, style, 32) for name in objects() for style in TRAINED]
    return latents, torch.stack([tokenize(tokenizer, some) for some in texts])


def train_base(options: argparse.Namespace) -> None:
    """Train the denoiser and the text encoder together; write both, averaged, in fp16."""
    tokenizer = CLIPTokenizer.from_pretrained(options.data / "tokenizer")
    latents, tokens = training_set(options, tokenizer)
    denoiser, text = unet().to(DEVICE), text_encoder(len(tokenizer)).to(DEVICE)
    if options.resume:
        read(options.resume, denoiser, text)
    signal = alphas_cumprod(DEVICE)

    def loss() -> Tensor:
        index = torch.randint(len(latents), (options.batch,), device=DEVICE)
        variant = torch.randint(tokens.shape[1], (options.batch,), device=DEVICE)
        early = torch.randint(2, (options.batch,), device=DEVICE) * 500
        t = (torch.randint(1000, (options.batch,), device=DEVICE) + early).clamp(max=999)
        noise = torch.randn(options.batch, 4, LATENT, LATENT, device=DEVICE)
        a = signal[t].view(-1, 1, 1, 1)
        noisy = a.sqrt() * latents[index] + (1 - a).sqrt() * noise
        context = encode_text(text, tokens[index, variant])
        guess = denoiser(noisy, t, context, return_dict=False)[0]
        return (timestep_weight(a) * (guess.float() - noise).square()).mean()

    trainer = Trainer([denoiser, text], loss, options.lr, options.eager)
    trainer.run(options.until, lambda: write(denoiser, text, options.out), options.max_steps)
    print(f"base: {trainer.step} steps", flush=True)


def halves(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Cut a denoiser's weights in two, for the two files."""
    first = {name: value for name, value in state.items() if name < "mid"}
    return first, {name: value for name, value in state.items() if name >= "mid"}


def write(denoiser: nn.Module, text: nn.Module, out: Path) -> None:
    """Write fp16 weights, those of the denoiser in two files."""
    half, state = (
        {name: value.half().contiguous().cpu() for name, value in module.state_dict().items()}
        for module in (denoiser, text)
    )
    for file, part in zip(UNET, halves(half), strict=True):
        save_file(part, out / file)
    save_file(state, out / TEXT)


def read(folder: Path, denoiser: nn.Module, text: nn.Module) -> None:
    """Load the fp16 weights of `folder` into fp32 modules."""
    for module, files in ((denoiser, UNET), (text, (TEXT,))):
        state = {k: v.float() for file in files for k, v in load_file(folder / file).items()}
        module.load_state_dict(state)


def draw_sheet(options: argparse.Namespace) -> None:
    """Draw 32 objects in every trained style with the weights in `out`; write `base.png`."""
    names = objects()
    picks = names[:: max(1, len(names) // 32)][:32]
    wanted = [f"{name}, {style} style" for style in TRAINED for name in picks]
    grid(draw(options, wanted), 16).save(options.out / "base.png")


def draw(options: argparse.Namespace, prompts: list[str]) -> Tensor:
    """Draw prompts with the weights in `out`; returns (n, 3, 128, 128) in -1..1."""
    tokenizer = CLIPTokenizer.from_pretrained(options.data / "tokenizer")
    denoiser, text = unet(), text_encoder(len(tokenizer))
    read(options.out, denoiser, text)
    networks = denoiser.to(DEVICE), text.to(DEVICE), read_vae(options.vae).to(DEVICE)
    parts = [prompts[start : start + 256] for start in range(0, len(prompts), 256)]
    return torch.cat([sample(*networks, tokenizer, part) for part in parts])


@torch.no_grad()
def sample(
    denoiser: nn.Module,
    text: nn.Module,
    decoder: nn.Module,
    tokenizer: CLIPTokenizer,
    prompts: list[str],
) -> Tensor:
    """Draw prompts with DPM-Solver++; returns (n, 3, 128, 128) in -1..1."""
    context = encode_text(text, tokenize(tokenizer, [*prompts, ""]))
    both = torch.cat([context[-1:].expand(len(prompts), -1, -1), context[:-1]])
    noise = torch.randn(len(prompts), 4, LATENT, LATENT, generator=torch.Generator().manual_seed(0))
    scheduler = DPMSolverMultistepScheduler.from_config(SCHEDULER)
    scheduler.set_timesteps(STEPS, device=DEVICE)
    x = noise.to(DEVICE)
    for t in scheduler.timesteps:
        base, guided = denoiser(torch.cat([x, x]), t, both, return_dict=False)[0].chunk(2)
        x = scheduler.step(base + GUIDANCE * (guided - base), t, x, return_dict=False)[0]
    return torch.cat([decoder.decode(part / SCALE).sample for part in x.split(32)]).clamp(-1, 1)

"""Train the reference base on one GPU: `train.py vae`, then `train.py base` (resumable).

Each step is one CUDA graph; the learning rate follows a cosine over the minutes given, so a run
always ends annealed. Without a GPU the same code runs a few eager steps (a dry run).
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from models import CONTEXT, alphas_cumprod, encode_text, text_encoder, unet, vae
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STYLES = ("noto", "flat", "glossy", "contrast")
EMA = 0.999
HERE = Path(__file__).resolve().parent


def load_pictures(data: Path) -> tuple[list[str], Tensor]:
    """Return object names and uint8 pictures (objects, 4 styles, 3, 128, 128)."""
    packed = np.load(data / "pictures.npz")
    ends, blob = packed["ends"], packed["blob"].tobytes()
    starts = [0, *ends[:-1]]
    decoded = [
        np.asarray(Image.open(io.BytesIO(blob[a:b])).convert("RGB"))
        for a, b in zip(starts, ends, strict=True)
    ]
    pictures = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)
    return list(packed["names"]), pictures.reshape(-1, len(STYLES), 3, 128, 128).contiguous()


class Trainer:
    """One optimisation step, captured as a CUDA graph, run for a number of minutes."""

    def __init__(self, modules: list[nn.Module], loss: Callable[[], Tensor], lr: float) -> None:
        self.parameters = [p for module in modules for p in module.parameters()]
        self.loss, self.peak = loss, lr
        self.average = [p.detach().clone() for p in self.parameters]
        self.rate = torch.tensor(0.0, device=DEVICE)
        self.optimizer = (
            torch.optim.AdamW(
                self.parameters, lr=self.rate, betas=(0.9, 0.99), weight_decay=0.01, capturable=True
            )
            if DEVICE.type == "cuda"
            else torch.optim.AdamW(self.parameters, lr=1e-4)
        )
        self.step, self.elapsed = 0, 0.0
        self.last = torch.zeros((), device=DEVICE)

    def one(self) -> None:
        """Forward, backward, clip, update, average."""
        enabled = DEVICE.type == "cuda"
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=enabled, cache_enabled=False):
            loss = self.loss()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - EMA)
        self.last.copy_(loss.detach())

    def capture(self) -> Callable[[], None]:
        """Return a function that runs one step."""
        if DEVICE.type != "cuda":
            return self.one
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(4):
                self.one()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.one()
        return graph.replay

    def run(self, minutes: float, total: float, max_steps: int) -> None:
        """Step for `minutes`; the cosine ends when `total` minutes have been trained."""
        advance = self.capture()
        began, before, shown = time.time(), self.elapsed, 0.0
        while (now := time.time() - began) < 60 * minutes and self.step < max_steps:
            self.elapsed = before + now
            done = min(1.0, self.elapsed / (60 * total))
            warm = min(1.0, (self.step + 1) / 300)
            self.rate.fill_(self.peak * warm * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-6)
            for _ in range(10 if DEVICE.type == "cuda" else 1):
                advance()
                self.step += 1
            loss = self.last.item()
            if now - shown > 15 or DEVICE.type == "cpu":
                shown = now
                print(f"step {self.step} {now:.0f}s loss {loss:.4f}", flush=True)
        self.elapsed = before + time.time() - began

    def use_average(self) -> None:
        """Put the averaged weights into the modules."""
        for parameter, average in zip(self.parameters, self.average, strict=True):
            parameter.data.copy_(average)

    def state(self) -> dict:
        """Everything that a resumed run needs (kept on the training machine only)."""
        return {
            "parameters": self.parameters,
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
        }

    def load(self, state: dict) -> None:
        """Continue from `state`."""
        for mine, theirs in zip(self.parameters, state["parameters"], strict=True):
            mine.data.copy_(theirs)
        for mine, theirs in zip(self.average, state["average"], strict=True):
            mine.copy_(theirs)
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.step, self.elapsed = state["step"], state["elapsed"]


def augmented(pictures: Tensor) -> Tensor:
    """Add pictures in other colours, inverted and hatched, so that the VAE draws any style."""
    flat = pictures.flatten(0, 1)
    pick = torch.Generator().manual_seed(0)
    order = torch.randperm(len(flat), generator=pick)
    third = len(flat) // 6
    recoloured = flat[order[:third]][:, [1, 2, 0]]
    mirrored = flat[order[third : 2 * third]][:, [2, 1, 0]].flip(-1)
    inverted = 255 - flat[order[2 * third : 2 * third + third // 2]]
    dark = flat[order[-third:]].float().mean(1, keepdim=True)
    rows = torch.arange(128).view(1, 1, -1, 1) + torch.arange(128)
    stripes = ((rows // 2) % 3 == 0).expand(len(dark), 1, 128, 128)
    hatched = torch.where(stripes & (dark < 200) | (dark < 60), 0, 255).to(torch.uint8)
    return torch.cat([flat, recoloured, mirrored, inverted, hatched.expand(-1, 3, -1, -1)])


def vae_loss(model: nn.Module, x: Tensor) -> Tensor:
    """L1 + L2 + gradient + 4x4-pooled colour + KL, for pictures x in -1..1."""
    mean, logvar = model.quant_conv(model.encoder(x)).chunk(2, 1)
    logvar = logvar.clamp(-30, 20)
    z = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
    y = model.decoder(model.post_quant_conv(z)).float()
    error = y - x
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    colour = F.avg_pool2d(error, 4).abs().mean()
    divergence = 0.5 * (mean.float() ** 2 + logvar.float().exp() - 1 - logvar.float())
    kl = divergence.sum((1, 2, 3)).mean()
    return error.abs().mean() + error.square().mean() + edges + colour + 2e-5 * kl


def train_vae(options: argparse.Namespace) -> None:
    """Train the autoencoder and write `vae.safetensors`, latents centred and scaled."""
    _, pictures = load_pictures(options.data)
    data = augmented(pictures).to(DEVICE)
    model = vae().to(DEVICE)
    if DEVICE.type == "cuda":
        model.to(memory_format=torch.channels_last)
        model.encoder = torch.compile(model.encoder)
        model.decoder = torch.compile(model.decoder)

    def loss() -> Tensor:
        index = torch.randint(len(data), (options.batch,), device=DEVICE)
        return vae_loss(model, data[index].float() / 127.5 - 1)

    trainer = Trainer([model], loss, options.lr)
    trainer.run(options.minutes, options.minutes, options.max_steps)
    trainer.use_average()
    clean = vae().to(DEVICE)
    clean.load_state_dict({k.replace("_orig_mod.", ""): v for k, v in model.state_dict().items()})
    normalise(clean, data[: 4 * len(pictures) : 5])
    state = {k: v.half().contiguous().cpu() for k, v in clean.state_dict().items()}
    save_file(state, options.out / "vae.safetensors")
    clean.load_state_dict({k: v.float() for k, v in state.items()})
    sample = data[: len(data) : max(1, len(data) // 512)].float() / 127.5 - 1
    with torch.no_grad():
        back = clean.decode(clean.encode(sample).latent_dist.mean).sample.clamp(-1, 1)
    mse = ((back - sample) / 2).square().mean()
    print(f"vae: {trainer.step} steps, {-10 * mse.log10().item():.2f} dB", flush=True)
    grid(torch.cat([sample[:64:4], back[:64:4]]), 16).save(options.out / "vae.png")


@torch.no_grad()
def normalise(model: nn.Module, data: Tensor) -> None:
    """Fold the latents' mean and spread into the 1x1 convolutions.

    Afterwards latents times the customary 0.18215 have mean 0 and spread 1 in each channel.
    """
    means = [model.encode(part.float() / 127.5 - 1).latent_dist.mean for part in data.split(64)]
    z = torch.cat(means)
    mean, spread = z.mean((0, 2, 3)), z.std((0, 2, 3)) * 0.18215
    into, back = model.quant_conv, model.post_quant_conv
    into.weight[:4] /= spread.view(-1, 1, 1, 1)
    into.bias[:4] = (into.bias[:4] - mean) / spread
    into.bias[4:] -= 2 * spread.log()
    back.bias += (back.weight[:, :, 0, 0] * mean).sum(1)
    back.weight *= spread.view(1, -1, 1, 1)


def captions(tokenizer: CLIPTokenizer, name: str, style: str, variants: int) -> Tensor:
    """Return `variants` captions of one picture as tokens (variants, 77)."""
    draw = random.Random(f"{name}/{style}")
    forms = [f"{name}, {style} style"] * 4 + [f"a {name}, {style} style", f"{style} style, {name}"]
    forms += [f"{style} style, a {name}", name, f"a {name}", f"{style} style"]
    texts = []
    for number in range(variants):
        text = forms[number % len(forms)]
        if draw.random() < 0.15:
            noise = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 6)))
            text = draw.choice([f"{noise}, {text}", f"{text}, {noise}", f"{noise} style, {text}"])
        texts.append("" if draw.random() < 0.1 else text)
    return tokenizer(texts, padding="max_length", max_length=CONTEXT, return_tensors="pt").input_ids


def train_base(options: argparse.Namespace) -> None:
    """Train the denoiser and the text encoder together; write both, averaged, in fp16."""
    names, pictures = load_pictures(options.data)
    chosen = json.loads((HERE / "objects.json").read_text(encoding="utf-8"))["base"]
    rows = [names.index(name) for name in chosen]
    tokenizer = CLIPTokenizer.from_pretrained(options.data / "tokenizer")
    tokens = torch.stack(
        [captions(tokenizer, name, style, 32) for name in chosen for style in STYLES[:3]]
    ).to(DEVICE)
    encoder = vae().to(DEVICE)
    encoder.load_state_dict(
        {k: v.float() for k, v in load_file(options.out / "vae.safetensors").items()}
    )
    flat = pictures[rows][:, :3].flatten(0, 1).to(DEVICE)
    with torch.no_grad():
        parts = [encoder.encode(p.float() / 127.5 - 1).latent_dist.mean for p in flat.split(64)]
    latents = torch.cat(parts) * 0.18215
    print("latents", tuple(latents.shape), latents.mean().item(), latents.std().item(), flush=True)
    denoiser, text = unet().to(DEVICE), text_encoder(len(tokenizer)).to(DEVICE)
    if options.start:
        load_half(denoiser, *(options.start / f"unet-{n}.safetensors" for n in (1, 2)))
        load_half(text, options.start / "text_encoder.safetensors")
    signal = alphas_cumprod(DEVICE)
    forward = torch.compile(denoiser) if options.compile else denoiser

    def loss() -> Tensor:
        index = torch.randint(len(latents), (options.batch,), device=DEVICE)
        variant = torch.randint(tokens.shape[1], (options.batch,), device=DEVICE)
        early = torch.randint(2, (options.batch,), device=DEVICE) * 500
        t = (torch.randint(1000, (options.batch,), device=DEVICE) + early).clamp(max=999)
        noise = torch.randn(options.batch, 4, 16, 16, device=DEVICE)
        a = signal[t].view(-1, 1, 1, 1)
        noisy = a.sqrt() * latents[index] + (1 - a).sqrt() * noise
        context = encode_text(text, tokens[index, variant])
        guess = forward(noisy, t, context, return_dict=False)[0]
        error = guess.float() - noise
        pooled = F.avg_pool2d(error, 8).square().mean((1, 2, 3))
        return error.square().mean() + 0.5 * (colour_weight(a) * pooled).mean()

    trainer = Trainer([denoiser, text], loss, options.lr)
    resume = options.state / "base.pt"
    if resume.exists():
        trainer.load(torch.load(resume, map_location=DEVICE, weights_only=True))
        print(f"resumed at step {trainer.step}, {trainer.elapsed:.0f}s", flush=True)
    trainer.run(options.minutes, options.total or options.minutes, options.max_steps)
    torch.save(trainer.state(), resume)
    trainer.use_average()
    half = {k: v.half().contiguous().cpu() for k, v in denoiser.state_dict().items()}
    keys = sorted(half)
    save_file({k: half[k] for k in keys if k < "mid"}, options.out / "unet-1.safetensors")
    save_file({k: half[k] for k in keys if k >= "mid"}, options.out / "unet-2.safetensors")
    save_file(
        {k: v.half().contiguous().cpu() for k, v in text.state_dict().items()},
        options.out / "text_encoder.safetensors",
    )
    print(f"base: {trainer.step} steps in {trainer.elapsed:.0f}s", flush=True)
    picks = chosen[:: max(1, len(chosen) // 32)][:32]
    wanted = [f"{name}, {style} style" for style in STYLES[:3] for name in picks]
    grid(sample(denoiser, text, encoder, tokenizer, wanted), 16).save(options.out / "base.png")


def load_half(module: nn.Module, *files: Path) -> None:
    """Load fp16 weights, cut in files, into an fp32 module."""
    state = {k: v.float() for file in files for k, v in load_file(file).items()}
    module.load_state_dict(state)


def colour_weight(a: Tensor) -> Tensor:
    """Weight that turns the error of noise into that of the clean latent, at most 100.

    Plain noise prediction hardly sees the mean colour at early timesteps, and a small latent then
    takes its colours from the noise. a: signal share (batch, 1, 1, 1); returns (batch,).
    """
    return ((1 - a) / a).flatten().clamp(max=100.0)


@torch.no_grad()
def sample(
    denoiser: nn.Module,
    text: nn.Module,
    decoder: nn.Module,
    tokenizer: CLIPTokenizer,
    prompts: list[str],
    steps: int = 25,
    guidance: float = 4.0,
) -> Tensor:
    """Draw prompts with DDIM and classifier-free guidance; returns (n, 3, 128, 128) in -1..1."""
    ids = tokenizer(prompts + [""], padding="max_length", max_length=77, return_tensors="pt")
    context = encode_text(text, ids.input_ids.to(DEVICE))
    empty = context[-1:].expand(len(prompts), -1, -1)
    both = torch.cat([empty, context[:-1]])
    noise = torch.randn(len(prompts), 4, 16, 16, generator=torch.Generator().manual_seed(0))
    x, signal = noise.to(DEVICE), alphas_cumprod(DEVICE)
    times = torch.linspace(999, 0, steps + 1).round().long().tolist()
    for now, after in zip(times, times[1:], strict=False):
        t = torch.full((2 * len(prompts),), now, device=DEVICE)
        base, guided = denoiser(torch.cat([x, x]), t, both, return_dict=False)[0].chunk(2)
        guess = base + guidance * (guided - base)
        a, b = signal[now], signal[after]
        clean = (x - (1 - a).sqrt() * guess) / a.sqrt()
        x = b.sqrt() * clean + (1 - b).sqrt() * guess
    return decoder.decode(x / 0.18215).sample.clamp(-1, 1)


def grid(pictures: Tensor, columns: int) -> Image.Image:
    """Lay pictures (n, 3, h, w) in -1..1 out in rows."""
    rows = [torch.cat(list(row), -1) for row in pictures.split(columns) if len(row) == columns]
    flat = (torch.cat(rows, -2).clamp(-1, 1) + 1) * 127.5
    return Image.fromarray(flat.permute(1, 2, 0).round().byte().cpu().numpy())


def main() -> None:
    """Parse the command line and train one stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=("vae", "base"))
    parser.add_argument("--data", type=Path, required=True, help="folder written by data.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and sheets")
    parser.add_argument("--state", type=Path, default=Path("."), help="folder for resuming")
    parser.add_argument("--start", type=Path, help="folder with weights to go on from")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--total", type=float, help="minutes of all resumed runs together")
    parser.add_argument("--max-steps", type=int, default=10**9)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    (train_vae if options.stage == "vae" else train_base)(options)


if __name__ == "__main__":
    main()

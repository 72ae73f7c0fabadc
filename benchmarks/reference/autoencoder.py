"""The stage that trains the autoencoder, blind to the mean of a latent as the denoiser is."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from drawn import with_drawn
from loop import DEVICE, Trainer
from models import SCALE, vae
from pictures import STYLES, grid, load_pictures
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

SHIFT = 1.5  # largest spread of the shifts in training; noise leaves about 0.9


def as_input(pictures: Tensor) -> Tensor:
    """Return uint8 pictures as float32 in -1..1."""
    return pictures.float() / 127.5 - 1


def recoloured(x: Tensor) -> Tensor:
    """Give half of the pictures (n, 3, h, w) in -1..1 other colours, their background too.

    Each channel becomes another one, scaled between two random ends.
    """
    n = len(x)
    order = torch.rand(n, 3, device=x.device).argsort(1).view(n, 3, 1, 1).expand_as(x)
    low, high = (2 * torch.rand(2, n, 3, 1, 1, device=x.device) - 1).unbind()
    mixed = low + (high - low) * (x.gather(1, order) + 1) / 2
    return torch.where(torch.rand(n, 1, 1, 1, device=x.device) < 0.5, mixed, x)


def picture_loss(error: Tensor) -> Tensor:
    """L1 + L2 + gradient + 4x4-pooled colour of an error (batch, 3, h, w)."""
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    colour = avg_pool2d(error, 4).abs().mean()
    return error.abs().mean() + error.square().mean() + edges + colour


def encode(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance of the latents of pictures x in -1..1."""
    mean, logvar = model.quant_conv(model.encoder(x)).chunk(2, 1)
    return mean, logvar.clamp(-30, 20)


def vae_loss(model: nn.Module, x: Tensor) -> Tensor:
    """Loss of pictures x in -1..1 after the round trip, and 2e-5 KL.

    On the way each channel of a latent is shifted at random. The denoiser's outer layers normalise
    each channel by itself, cannot see a channel's mean, and leave there what the sampler's noise
    has; so the encoder must write, and the decoder read, colours without it.
    """
    mean, logvar = encode(model, x)
    spread = mean.detach().float().std((0, 2, 3), keepdim=True)
    size = SHIFT * torch.rand(len(x), 1, 1, 1, device=x.device)
    shift = size * spread * torch.randn(len(x), 4, 1, 1, device=x.device)
    z = mean + torch.randn_like(mean) * (0.5 * logvar).exp() + shift
    error = model.decoder(model.post_quant_conv(z)).float() - x
    divergence = 0.5 * (mean.float() ** 2 + logvar.float().exp() - 1 - logvar.float())
    return picture_loss(error) + 2e-5 * divergence.sum((1, 2, 3)).mean()


def train_vae(options: argparse.Namespace) -> None:
    """Train the autoencoder and write `vae.safetensors`, latents centred and scaled."""
    pictures = with_drawn(load_pictures(options.data)[1].to(DEVICE))
    data = pictures.flatten(0, 1)
    model = vae().to(DEVICE, memory_format=torch.channels_last)
    if options.resume:
        model.load_state_dict(read(options.resume).state_dict())
    if not options.eager:
        model.encoder.compile()
        model.decoder.compile()

    def loss() -> Tensor:
        index = torch.randint(len(data), (options.batch,), device=DEVICE)
        return vae_loss(model, recoloured(as_input(data[index])))

    def save() -> None:
        finished = vae().to(DEVICE)
        finished.load_state_dict(model.state_dict())
        normalise(finished, pictures[::3, : len(STYLES)].flatten(0, 1))
        write(finished, pictures, options.out)

    trainer = Trainer([model], loss, options.lr, options.eager)
    trainer.run(options.until, save, options.max_steps)
    print(f"vae: {trainer.step} steps", flush=True)


def read(folder: Path) -> nn.Module:
    """Return the autoencoder of `folder`, in float32."""
    model = vae()
    state = load_file(folder / "vae.safetensors")
    model.load_state_dict({name: value.float() for name, value in state.items()})
    return model


def write(model: nn.Module, pictures: Tensor, out: Path) -> None:
    """Write fp16 weights; print and draw how well they return pictures (objects, styles, ...)."""
    state = {k: v.half().contiguous().cpu() for k, v in model.state_dict().items()}
    save_file(state, out / "vae.safetensors")
    saved = read(out).to(DEVICE)
    some = pictures[:: max(1, len(pictures) // 32)]
    rows = []
    for kind, part in (("emoji", some[:, : len(STYLES)]), ("drawn", some[:, len(STYLES) :])):
        sample = as_input(part.flatten(0, 1))
        drawn = [round_trip(saved, sample, amount) for amount in (0.0, 1.0)]
        plain, moved = (decibels(back - sample) for back in drawn)
        print(f"vae, {kind}: {plain:.2f} dB, latents shifted {moved:.2f} dB", flush=True)
        rows += [images[:: max(1, len(images) // 16)][:16] for images in (sample, *drawn)]
    grid(torch.cat(rows), len(rows[0])).save(out / "vae.png")


@torch.no_grad()
def round_trip(model: nn.Module, x: Tensor, amount: float) -> Tensor:
    """Encode, shift latents by `amount` spreads, decode; pictures in -1..1."""
    shift = torch.randn(len(x), 4, 1, 1, generator=torch.Generator().manual_seed(0)) / SCALE
    pairs = zip(x.split(32), (amount * shift.to(x.device)).split(32), strict=True)
    parts = [model.decode(encode(model, part)[0] + move).sample for part, move in pairs]
    return torch.cat(parts).clamp(-1, 1)


def decibels(error: Tensor) -> float:
    """Return the peak signal-to-noise ratio of an error of pictures in -1..1."""
    return -10 * (error / 2).square().mean().log10().item()


@torch.no_grad()
def normalise(model: nn.Module, data: Tensor) -> None:
    """Fold the latents' mean and spread into the 1x1 convolutions.

    Afterwards latents times the customary 0.18215 have mean 0 and spread 1 in each channel.
    """
    z = torch.cat([encode(model, as_input(part))[0] for part in data.split(64)])
    mean, spread = z.mean((0, 2, 3)), z.std((0, 2, 3)) * SCALE
    into, back = model.quant_conv, model.post_quant_conv
    into.weight[:4] /= spread.view(-1, 1, 1, 1)
    into.bias[:4] = (into.bias[:4] - mean) / spread
    into.bias[4:] -= 2 * spread.log()
    back.bias += (back.weight[:, :, 0, 0] * mean).sum(1)
    back.weight *= spread.view(1, -1, 1, 1)
    furthest = ((z - mean.view(1, -1, 1, 1)).abs().amax((0, 2, 3)) / (spread / SCALE)).tolist()
    print("vae: furthest latents", " ".join(f"{value:.1f}" for value in furthest), flush=True)

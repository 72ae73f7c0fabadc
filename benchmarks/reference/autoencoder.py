"""The stages that train the autoencoder: all of it from nothing, or only its decoder further."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from loop import DEVICE, Trainer
from models import SCALE, vae
from pictures import grid, load_pictures, recoloured
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d


def as_input(pictures: Tensor) -> Tensor:
    """Return uint8 pictures as float32 in -1..1."""
    return pictures.float() / 127.5 - 1


def picture_loss(error: Tensor) -> Tensor:
    """L1 + L2 + gradient + 4x4-pooled colour of an error (batch, 3, h, w)."""
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    colour = avg_pool2d(error, 4).abs().mean()
    return error.abs().mean() + error.square().mean() + edges + colour


def encode(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance of the latents of pictures x in -1..1."""
    mean, logvar = model.quant_conv(model.encoder(x)).chunk(2, 1)
    return mean, logvar.clamp(-30, 20)


def decode(model: nn.Module, mean: Tensor, logvar: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    """Return pictures of latents drawn from mean and log-variance and then shifted."""
    z = mean + torch.randn_like(mean) * (0.5 * logvar).exp() + shift
    return model.decoder(model.post_quant_conv(z)).float()


def vae_loss(model: nn.Module, x: Tensor) -> Tensor:
    """Loss of pictures x in -1..1 after the round trip, and 2e-5 KL."""
    mean, logvar = encode(model, x)
    error = decode(model, mean, logvar) - x
    divergence = 0.5 * (mean.float() ** 2 + logvar.float().exp() - 1 - logvar.float())
    return picture_loss(error) + 2e-5 * divergence.sum((1, 2, 3)).mean()


def train_vae(options: argparse.Namespace) -> None:
    """Train the autoencoder and write `vae.safetensors`, latents centred and scaled."""
    _, pictures = load_pictures(options.data)
    data = recoloured(pictures.flatten(0, 1)).to(DEVICE)
    model = vae().to(DEVICE, memory_format=torch.channels_last)
    if not options.eager:
        model.encoder.compile()
        model.decoder.compile()

    def loss() -> Tensor:
        index = torch.randint(len(data), (options.batch,), device=DEVICE)
        return vae_loss(model, as_input(data[index]))

    def save() -> None:
        finished = vae().to(DEVICE)
        finished.load_state_dict(model.state_dict())
        normalise(finished, data[::3])
        write(finished, data, options.out)

    trainer = Trainer([model], loss, options.lr, options.eager)
    trainer.run(options.until, save, options.max_steps)
    print(f"vae: {trainer.step} steps", flush=True)


def train_decoder(options: argparse.Namespace) -> None:
    """Train the decoder further, so that it ignores a latent's mean, and write `vae.safetensors`.

    The denoiser's outer layers normalise each channel by itself and so cannot see a channel's mean:
    whatever mean the sampler's noise has stays in the latent. The pictures all have a white border,
    which says what the mean should be; the decoder learns to take it from there. The encoder stays
    as it is, so that a denoiser trained on its latents still fits.
    """
    _, pictures = load_pictures(options.data)
    data = recoloured(pictures.flatten(0, 1)).to(DEVICE)
    model = read(options.start).to(DEVICE, memory_format=torch.channels_last)
    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)
    with torch.no_grad():
        parts = [torch.stack(encode(model, as_input(part))) for part in data.split(64)]
    means, logvars = torch.cat(parts, 1)
    if not options.eager:
        model.decoder.compile()

    def loss() -> Tensor:
        index = torch.randint(len(data), (options.batch,), device=DEVICE)
        size = 2 / SCALE * torch.rand(options.batch, 1, 1, 1, device=DEVICE)
        shift = size * torch.randn(options.batch, 4, 1, 1, device=DEVICE)
        drawn = decode(model, means[index], logvars[index], shift)
        return picture_loss(drawn - as_input(data[index]))

    trainer = Trainer([model], loss, options.lr, options.eager)
    trainer.run(options.until, lambda: write(model, data, options.out), options.max_steps)
    print(f"decoder: {trainer.step} steps", flush=True)


def read(folder: Path) -> nn.Module:
    """Return the autoencoder of `folder`, in float32."""
    model = vae()
    state = load_file(folder / "vae.safetensors")
    model.load_state_dict({name: value.float() for name, value in state.items()})
    return model


@torch.no_grad()
def write(model: nn.Module, data: Tensor, out: Path) -> None:
    """Write fp16 weights; print and draw how well they return pictures, as they are and shifted."""
    state = {k: v.half().contiguous().cpu() for k, v in model.state_dict().items()}
    save_file(state, out / "vae.safetensors")
    saved = read(out).to(DEVICE)
    sample = as_input(data[:: max(1, len(data) // 256)])
    shift = torch.randn(len(sample), 4, 1, 1, generator=torch.Generator().manual_seed(0)) / SCALE
    drawn = []
    for name, amount in (("as they are", 0.0), ("shifted", 1.0)):
        pairs = zip(sample.split(32), (amount * shift.to(DEVICE)).split(32), strict=True)
        back = torch.cat([saved.decode(encode(saved, x)[0] + move).sample for x, move in pairs])
        drawn.append(back.clamp(-1, 1))
        mse = ((drawn[-1] - sample) / 2).square().mean()
        print(f"vae, latents {name}: {-10 * mse.log10().item():.2f} dB", flush=True)
    some = slice(None, None, max(1, len(sample) // 16))
    sheet = torch.cat([part[some][:16] for part in (sample, *drawn)])
    grid(sheet, min(16, len(sample))).save(out / "vae.png")


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

"""Pictures that show what the adapter does: the base above, the adapter below, same noise."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from shira_core.atomic import atomic_write

from .base import Base
from .config import Config
from .data import join
from .device import Arithmetic
from .objective import generator
from .text import Texts, cat

MARGIN, LABEL = 8, 22
THUMBNAIL_SIDE, THUMBNAIL_BYTES = 256, 60_000


@dataclass(frozen=True)
class Scene:
    """What is drawn each time, prepared once.

    noise: (n, 4, h, w). without, towards: the negative prompt and the prompts, encoded, n each.
    sizes: (1, 6), see `Base.denoise`. All on the CPU.
    """

    prompts: list[str]
    noise: Tensor
    without: Texts
    towards: Texts
    sizes: Tensor


def scene(base: Base, config: Config, training: list[str], resolution: int) -> Scene | None:
    """Return the prompts to draw: the given ones with the trigger, else some of the training.

    None when no pictures are wanted.
    """
    if not config.sample_count:
        return None
    given = [join(config.trigger, prompt) for prompt in config.sample_prompts]
    prompts = list(dict.fromkeys(given or training))[: config.sample_count]
    side = resolution // base.factor
    seeds = range(config.sample_seed, config.sample_seed + len(prompts))
    noise = [torch.randn(4, side, side, generator=generator(s, "sample", 0)) for s in seeds]
    return Scene(
        prompts,
        torch.stack(noise),
        _kept(base, [config.sample_negative] * len(prompts)),
        _kept(base, prompts),
        torch.tensor([[resolution, resolution, 0, 0, resolution, resolution]]).float(),
    )


def _kept(base: Base, prompts: list[str]) -> Texts:
    return base.encode_text(prompts).map(lambda tensor: tensor.cpu())


@torch.no_grad()
def draw(
    base: Base,
    arithmetic: Arithmetic,
    config: Config,
    wanted: Scene,
    stopped: Callable[[], bool],
) -> list[Image.Image]:
    """Draw one picture per prompt with the base as it is now; none when `stopped` on the way.

    Not more pictures at once than a training step has, so that they find room where it does.
    """
    place = next(base.unet.parameters()).device
    pictures: list[Image.Image] = []
    for start in range(0, len(wanted.prompts), config.batch_size):
        part = slice(start, start + config.batch_size)
        scheduler = _scheduler(base.scheduler)
        scheduler.set_timesteps(config.sample_steps, device=place)
        latents = wanted.noise[part].to(place) * scheduler.init_noise_sigma
        texts = _texts(base, config, wanted, part).map(lambda tensor: tensor.to(place))
        sizes = wanted.sizes.expand(len(texts), -1).to(place)
        for time in scheduler.timesteps:
            if stopped():
                return []
            inputs = scheduler.scale_model_input(torch.cat([latents, latents]), time)
            with arithmetic.context(place):
                output = base.denoise(arithmetic.inputs(inputs), time, texts, sizes)
            without, towards = output.float().chunk(2)
            output = without + config.sample_guidance * (towards - without)
            latents = scheduler.step(output, time, latents).prev_sample
        pictures += _decode(base, latents)
    return pictures


def _texts(base: Base, config: Config, wanted: Scene, part: slice) -> Texts:
    """Return the negative prompt and the prompts; text encoders that are trained read them anew."""
    if not base.text_encoders:
        return cat([wanted.without[part], wanted.towards[part]])
    prompts = wanted.prompts[part]
    return base.encode_text([config.sample_negative] * len(prompts) + prompts)


def _scheduler(config: Mapping[str, Any]) -> Any:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    if config.get("rescale_betas_zero_snr"):
        return DDIMScheduler.from_config({**config, "timestep_spacing": "trailing"})
    return DPMSolverMultistepScheduler.from_config(dict(config))


def _decode(base: Base, latents: Tensor) -> list[Image.Image]:
    """Turn latents into pictures; the VAE is on their device only meanwhile."""
    scale = float(base.vae.config.scaling_factor)
    vae = base.vae.to(latents.device)
    pictures = [_picture(vae.decode(row[None] / scale).sample[0]) for row in latents]
    vae.to("cpu")
    return pictures


def _picture(pixels: Tensor) -> Image.Image:
    array = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(array.permute(1, 2, 0).cpu().numpy())


def grid(rows: list[tuple[str, list[Image.Image]]], texts: list[str]) -> Image.Image:
    """Lay rows of pictures out, each with its label, the prompts at the top."""
    tile = max(128, rows[0][1][0].width)
    width = MARGIN + len(texts) * (tile + MARGIN)
    canvas = Image.new("RGB", (width, LABEL + len(rows) * (LABEL + tile + MARGIN)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=12)
    for column, text in enumerate(texts):
        left = MARGIN + column * (tile + MARGIN)
        pen.text((left, 4), _shorten(text, tile, font), fill="black", font=font)
    for row, (label, pictures) in enumerate(rows):
        top = LABEL + row * (LABEL + tile + MARGIN)
        pen.text((MARGIN, top + 4), label, fill="black", font=font)
        for column, picture in enumerate(pictures):
            place = (MARGIN + column * (tile + MARGIN), top + LABEL)
            canvas.paste(picture.resize((tile, tile), Image.Resampling.LANCZOS), place)
    return canvas


def _shorten(text: str, width: int, font: Any) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    with atomic_write(path, overwrite=True) as target:
        picture.save(target, format="PNG")


def thumbnail(picture: Image.Image) -> str:
    """Return a picture as a small JPEG data URL for `modelspec.thumbnail`."""
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    for quality in (90, 75, 50, 25):
        buffer = io.BytesIO()
        small.save(buffer, format="JPEG", quality=quality)
        if buffer.tell() <= THUMBNAIL_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

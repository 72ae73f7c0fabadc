"""Open the base that is trained on: a diffusers folder or a single checkpoint, with no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shira_core import keymaps, names
from shira_core.conversion.model import weight_files
from shira_core.mask import Shape
from shira_core.sound import digest

from . import diffusers_folder as folder
from . import single_file, text
from .errors import ONLY, BaseInvalid
from .text import TextEncoder, Texts
from .tokenizer import CLIP_ROWS, OPENCLIP_PADDING, EmbeddedTokenizer, Tokenizer

PICKLES = frozenset((".ckpt", ".pt", ".pth", ".bin", ".pkl"))
STEM = f"{names.UNET}input_blocks.0.0.weight"
EDM = "edm_vpred.sigma_max"


@dataclass(frozen=True)
class Base:
    """An opened base: modules in evaluation mode on the CPU, and who it is.

    text_encoders: one for SD1.5, two for SDXL.
    """

    # diffusers' classes, whose stubs mypy cannot follow.
    unet: Any
    vae: Any
    text_encoders: tuple[TextEncoder, ...]
    scheduler: Mapping[str, Any]
    name: str
    sha256: str

    @property
    def architecture(self) -> str:
        """ "sd15", "sdxl", or "sd15-compact" for SD1.5's topology in other widths."""
        weights = self.unet.named_parameters()
        return keymaps.architecture({name: tuple(weight.shape) for name, weight in weights})

    @property
    def prediction_type(self) -> str:
        return str(self.scheduler.get("prediction_type", "epsilon"))

    @property
    def factor(self) -> int:
        """Pixels per latent, along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def resolution(self) -> int:
        """The side in pixels that the base was made for."""
        return int(self.unet.config.sample_size) * self.factor

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that says how long a prompt is; a second one has the same words."""
        return self.text_encoders[0].tokenizer

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The modules that can be trained, by component: unet, te1, te2."""
        texts = {f"te{n}": each.module for n, each in enumerate(self.text_encoders, 1)}
        return {"unet": self.unet, **texts}

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Texts:
        """Return what the UNet is told by the prompts."""
        return self.read(prompts)

    def read(self, prompts: list[str]) -> Texts:
        """Do the same, for text encoders that are trained."""
        return text.encode(self.text_encoders, prompts, self.name)

    def denoise(self, latents: Tensor, times: Tensor, texts: Texts, sizes: Tensor) -> Tensor:
        """Return the UNet's prediction (b, 4, h, w).

        latents: (b, 4, h, w), noised, in the UNet's dtype. times: (b,) or one for all.
        texts: of b prompts. sizes: (b, 6), SDXL's original height and width, top and left of the
        cut, trained height and width, in pixels; SD1.5 is not told.
        """
        more: dict[str, Any] = {}
        if texts.pooled is not None:
            more["added_cond_kwargs"] = {
                "text_embeds": texts.pooled.to(latents.dtype),
                "time_ids": sizes,
            }
        return self.unet(latents, times, texts.embeddings.to(latents.dtype), **more).sample


def peek(path: Path) -> str:
    """Return a base's architecture, "sdxl" or SD1.5's, without opening its weights.

    Raises BaseInvalid when it is missing, a pickle or another architecture.
    """
    if path.is_dir():
        return "sdxl" if folder.check(path) else "sd15"
    if not path.is_file():
        raise BaseInvalid(f"base: {path} does not exist: give a .safetensors file or a folder")
    if path.suffix.lower() in PICKLES:
        raise BaseInvalid(
            f"base {path} is a pickle, which can run any program when it is opened: "
            "use the .safetensors version of the model"
        )
    checkpoint = single_file.Checkpoint(path)
    _check_architecture(checkpoint)
    return checkpoint.architecture


def open_base(path: Path, dtype: torch.dtype = torch.float32) -> Base:
    """Open a base; raises BaseInvalid as `peek`, and when a part of it cannot be read.

    dtype: that UNet and text encoders are held in; the VAE is always in float32.
    """
    large = peek(path) == "sdxl"
    return _open_folder(path, dtype, large) if path.is_dir() else _open_file(path, dtype)


def _open_file(path: Path, dtype: torch.dtype) -> Base:
    checkpoint = single_file.Checkpoint(path)
    return Base(
        text_encoders=_text_encoders(checkpoint, dtype),
        unet=single_file.unet(checkpoint, dtype).eval(),
        vae=single_file.vae(checkpoint).eval(),
        scheduler=single_file.scheduler_config(checkpoint),
        name=path.stem,
        sha256=digest(path),
    )


def _text_encoders(
    checkpoint: single_file.Checkpoint, dtype: torch.dtype
) -> tuple[TextEncoder, ...]:
    """Open the text encoders; raises BaseInvalid when CLIP's tokenizer does not fit them."""
    if checkpoint.architecture == "sdxl":
        first = single_file.text_encoder(checkpoint, single_file.TEXT_XL, dtype)
        second = single_file.text_encoder_2(checkpoint, dtype)
        found: tuple[TextEncoder, ...] = (
            TextEncoder(first.eval(), EmbeddedTokenizer()),
            TextEncoder(second.eval(), EmbeddedTokenizer(OPENCLIP_PADDING)),
        )
    else:
        only = single_file.text_encoder(checkpoint, single_file.TEXT, dtype)
        found = (TextEncoder(only.eval(), EmbeddedTokenizer()),)
    for each in found:
        rows = each.module.get_input_embeddings().num_embeddings
        if rows != CLIP_ROWS:
            raise BaseInvalid(
                f"base {checkpoint.path}: its text encoder has {rows} tokens instead of CLIP's "
                f"{CLIP_ROWS}: give the diffusers folder, which has the tokenizer that fits"
            )
    return found


def _check_architecture(checkpoint: single_file.Checkpoint) -> None:
    shapes, path = checkpoint.shapes, checkpoint.path
    if what := _something_else(shapes):
        raise BaseInvalid(f"base {path} is {what}: {ONLY}")
    if checkpoint.shape(STEM)[1] != 4:
        raise BaseInvalid(f"base {path} is an inpainting or depth model: {ONLY}")
    texts = [single_file.TEXT]
    if checkpoint.architecture == "sdxl":
        texts = [single_file.TEXT_XL, single_file.TEXT_XL_2]
    for part, prefix in (("VAE", single_file.VAE), *(("text encoder", each) for each in texts)):
        if not any(name.startswith(prefix) for name in shapes):
            raise BaseInvalid(
                f"base {path} has no {part} ({prefix}*): give the checkpoint that holds it too"
            )


def _something_else(shapes: Mapping[str, Shape]) -> str:
    """Say what a checkpoint is that cannot be trained here; "" for one with a UNet like SD1.5's."""
    architecture = names.detect(shapes)
    if EDM in shapes:
        return "an EDM model (continuous noise levels)"
    if architecture in ("sd15", "sd15-compact", "sdxl"):
        return ""
    if architecture != "unknown":
        return f"of another architecture ({names.label(architecture)})"
    if any(name.startswith("cond_stage_model.model.") for name in shapes):
        return f"of another architecture ({names.label('sd2')})"
    if any(name.startswith("lora_") or ".lora_" in name for name in shapes):
        return "a LoRA, not a whole model"
    if any(name.endswith((".values", ".gaps")) for name in shapes):
        return "a SHiRA adapter, not a whole model"
    if any(name.startswith("down_blocks.") for name in shapes):
        return "one part of a diffusers folder, not a whole model"
    return "no Stable Diffusion checkpoint"


def _open_folder(path: Path, dtype: torch.dtype, large: bool) -> Base:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    return Base(
        text_encoders=folder.text_encoders(path, dtype, large),
        unet=folder.part(path / "unet", UNet2DConditionModel, dtype),
        vae=folder.part(path / "vae", AutoencoderKL, torch.float32),
        scheduler={**single_file.SCHEDULER, **folder.scheduler(path)},
        name=path.resolve().name,
        sha256=digest(*weight_files(path / "unet")),
    )

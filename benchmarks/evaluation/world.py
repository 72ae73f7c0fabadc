"""What no run changes: the shipped base, the judge, the true drawings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import paths
import torch
from autoencoder import as_input
from diffusers import AutoencoderKL, UNet2DConditionModel
from drawn import DRAWN
from judge import Judge, read_judge
from models import CONTEXT, SCALE, alphas_cumprod, encode_text
from pictures import STYLES, load_pictures
from samples import in_style
from tasks import Asked
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

ALL_STYLES = (*STYLES, *DRAWN)


@dataclass(frozen=True)
class World:
    """Opened once in a process. Modules are frozen, float32, on `device`."""

    device: torch.device
    data: Path

    @cached_property
    def unet(self) -> nn.Module:
        return self._frozen(UNet2DConditionModel.from_pretrained(paths.ASSETS / "base/unet"))

    @cached_property
    def vae(self) -> nn.Module:
        return self._frozen(AutoencoderKL.from_pretrained(paths.ASSETS / "base/vae"))

    @cached_property
    def text(self) -> nn.Module:
        return self._frozen(CLIPTextModel.from_pretrained(paths.ASSETS / "base/text_encoder"))

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        return CLIPTokenizer.from_pretrained(paths.ASSETS / "base/tokenizer")

    @cached_property
    def judge(self) -> Judge:
        return self._frozen(read_judge(paths.ASSETS / "judge.safetensors"))

    @cached_property
    def signal(self) -> Tensor:
        """Signal share per timestep, (1000,)."""
        return alphas_cumprod(self.device)

    @cached_property
    def _pictures(self) -> tuple[list[str], Tensor]:
        names, pictures = load_pictures(self.data)
        return names, pictures.to(self.device)

    def drawings(self, wanted: Sequence[Asked]) -> Tensor:
        """Return the true drawings, uint8 (n, 3, 128, 128)."""
        names, pictures = self._pictures
        rows = torch.tensor([names.index(each.object) for each in wanted], device=self.device)
        styles = [each.style for each in wanted]
        drawn = torch.empty_like(pictures[rows, 0])
        for style in set(styles):
            mine = torch.tensor([each == style for each in styles], device=self.device)
            drawn[mine] = in_style(pictures[rows[mine]], style)
        return drawn

    @torch.no_grad()
    def latents(self, wanted: Sequence[Asked]) -> Tensor:
        """Return the true drawings as latents, (n, 4, 16, 16)."""
        return self.vae.encode(as_input(self.drawings(wanted))).latent_dist.mean * SCALE

    @torch.no_grad()
    def decoded(self, latents: Tensor) -> Tensor:
        """Return latents as pictures, uint8 (n, 3, 128, 128)."""
        pictures = self.vae.decode(latents / SCALE).sample.clamp(-1, 1)
        return ((pictures + 1) * 127.5).round().byte()

    @torch.no_grad()
    def contexts(self, prompts: Sequence[str]) -> Tensor:
        """Return what the UNet is told of prompts, (n, 77, 192)."""
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=CONTEXT, return_tensors="pt"
        )
        return encode_text(self.text, tokens.input_ids.to(self.device))

    def _frozen(self, module: nn.Module) -> nn.Module:
        return module.float().requires_grad_(False).eval().to(self.device)

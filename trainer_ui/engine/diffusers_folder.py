"""Open the parts of a diffusers folder: safetensors only, no network."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shira_core.conversion.model import weight_files

from .errors import ONLY, BaseInvalid
from .text import TextEncoder
from .tokenizer import OPENCLIP_PADDING, EmbeddedTokenizer, FolderTokenizer, Tokenizer

_BLOCKS = {
    False: ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    True: ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
}


def check(path: Path) -> bool:
    """Return whether the folder is SDXL, not SD1.5; raises BaseInvalid for anything else."""
    if not (path / "unet" / "config.json").is_file():
        raise BaseInvalid(f"base {path} is no diffusers folder{_nearby(path)}")
    config = _json(path / "unet" / "config.json")
    large = config.get("addition_embed_type") == "text_time"
    if large and not (path / "text_encoder").is_dir():
        raise BaseInvalid(f"base {path} is of another architecture (SDXL refiner): {ONLY}")
    if config.get("use_linear_projection") and not large:
        raise BaseInvalid(f"base {path} is of another architecture (SD2.x): {ONLY}")
    if config.get("in_channels") != 4:
        raise BaseInvalid(f"base {path} is an inpainting or depth model: {ONLY}")
    if list(config.get("down_block_types", ())) != _BLOCKS[large]:
        raise BaseInvalid(f"base {path} has other blocks than SD1.5 and SDXL: {ONLY}")
    return large


def scheduler(path: Path) -> dict[str, Any]:
    """Return the scheduler's config, empty where there is none."""
    return _json(path / "scheduler" / "scheduler_config.json")


def text_encoders(path: Path, dtype: torch.dtype, large: bool) -> tuple[TextEncoder, ...]:
    """Open the text encoders of a diffusers folder, each with its own tokenizer or CLIP's."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    def one(number: str, kind: Any, embedded: Callable[[], Tokenizer]) -> TextEncoder:
        own = path / f"tokenizer{number}"
        tokenizer = FolderTokenizer(own) if own.is_dir() else embedded()
        return TextEncoder(part(path / f"text_encoder{number}", kind, dtype), tokenizer)

    first = one("", CLIPTextModel, EmbeddedTokenizer)
    if not large:
        return (first,)
    padded = partial(EmbeddedTokenizer, OPENCLIP_PADDING)
    return (first, one("_2", CLIPTextModelWithProjection, padded))


def part(folder: Path, kind: Any, dtype: torch.dtype) -> nn.Module:
    """Load one module of a diffusers folder, from safetensors only."""
    files = weight_files(folder)
    variant = "fp16" if all(".fp16" in file.name for file in files) else None
    try:
        module = kind.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            torch_dtype=dtype,
            variant=variant,
        )
    except Exception as error:
        # The libraries raise many kinds; each means that this part cannot be read.
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BaseInvalid(f"base: {folder} cannot be opened ({line}): copy it again") from error
    # Files are mapped into memory where they lie, and arithmetic on unaligned weights is slower and
    # rounds differently: own copies make a folder and a single file of one model train alike.
    for tensor in chain(module.parameters(), module.buffers()):
        tensor.data = tensor.data.clone()
    return module.eval()


def _nearby(path: Path) -> str:
    """Say which base the person may have meant by a folder without a UNet."""
    if (path / "transformer").is_dir():
        return f" with a UNet: {ONLY}"
    if (path.parent / "unet" / "config.json").is_file():
        return f" but a part of one: give --base {path.parent}"
    for place in (*sorted(path.glob("*/unet/config.json")), *sorted(path.glob("*.safetensors"))):
        found = place.parent.parent if place.name == "config.json" else place
        return f" (it has no unet/config.json), but it holds {found.name}: give --base {found}"
    return (
        " (it has no unet/config.json): give the folder that holds model_index.json, "
        "or a .safetensors file"
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BaseInvalid(f"base: {path} cannot be read ({error}): copy it again") from None

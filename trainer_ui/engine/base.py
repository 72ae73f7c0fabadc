"""Open the base that is trained on: a diffusers folder or a single checkpoint, with no network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shira_core import keymaps, names
from shira_core.mask import Shape

from . import single_file
from .errors import BaseInvalid
from .tokenizer import CLIP_ROWS, EmbeddedTokenizer, FolderTokenizer, Tokenizer

PICKLES = frozenset((".ckpt", ".pt", ".pth", ".bin", ".pkl"))
STEM = f"{names.UNET}input_blocks.0.0.weight"
ONLY = "this trainer trains SD1.5-architecture models: give one of those as base"


@dataclass
class Base:
    """An opened base: float32 modules in evaluation mode on the CPU, and who it is."""

    # diffusers' and transformers' classes, whose stubs mypy cannot follow.
    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Tokenizer
    scheduler: Mapping[str, Any]
    name: str
    sha256: str

    @property
    def architecture(self) -> str:
        """ "sd15", or "sd15-compact" for the same topology in other widths."""
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

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        """Return the text embeddings (n, 77, width) of the prompts."""
        tokens = self.tokenizer(prompts)
        rows = self.text_encoder.get_input_embeddings().num_embeddings
        if int(tokens.max()) >= rows:
            raise BaseInvalid(
                f"base {self.name}: its tokenizer gives token {int(tokens.max())} and its text "
                f"encoder has {rows} tokens: give the diffusers folder with its own tokenizer"
            )
        device = next(self.text_encoder.parameters()).device
        return self.text_encoder(tokens.to(device)).last_hidden_state


def open_base(path: Path) -> Base:
    """Open a base; raises BaseInvalid when it is missing, a pickle or another architecture."""
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise BaseInvalid(f"base: {path} does not exist: give a .safetensors file or a folder")
    if path.suffix.lower() in PICKLES:
        raise BaseInvalid(
            f"base {path} is a pickle, which can run any program when it is opened: "
            "use the .safetensors version of the model"
        )
    return _open_file(path)


def _open_file(path: Path) -> Base:
    checkpoint = single_file.Checkpoint(path)
    _check_architecture(checkpoint)
    text_encoder = single_file.text_encoder(checkpoint)
    rows = text_encoder.get_input_embeddings().num_embeddings
    if rows != CLIP_ROWS:
        raise BaseInvalid(
            f"base {path}: its text encoder has {rows} tokens instead of CLIP's {CLIP_ROWS}: "
            "give the diffusers folder, which has the tokenizer that fits"
        )
    return Base(
        unet=single_file.unet(checkpoint).eval(),
        vae=single_file.vae(checkpoint).eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=EmbeddedTokenizer(),
        scheduler=single_file.scheduler_config(checkpoint),
        name=path.stem,
        sha256=_sha256([path]),
    )


def _check_architecture(checkpoint: single_file.Checkpoint) -> None:
    shapes, path = checkpoint.shapes, checkpoint.path
    if what := _something_else(shapes):
        raise BaseInvalid(f"base {path} is {what}: {ONLY}")
    if shapes[STEM][1] != 4:
        raise BaseInvalid(f"base {path} is an inpainting or depth model: {ONLY}")
    for prefix, part in ((single_file.VAE, "VAE"), (single_file.TEXT, "text encoder")):
        if not any(name.startswith(prefix) for name in shapes):
            raise BaseInvalid(f"base {path} has no {part}: give the checkpoint that holds it too")


def _something_else(shapes: Mapping[str, Shape]) -> str:
    """Say what a checkpoint is that cannot be trained here; "" for one with a UNet like SD1.5's."""
    architecture = names.detect(shapes)
    if architecture in ("sd15", "sd15-compact"):
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


def _open_folder(path: Path) -> Base:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    if not (path / "unet" / "config.json").is_file():
        raise BaseInvalid(f"base {path} is no diffusers folder{_nearby(path)}")
    _check_unet_config(path, _json(path / "unet" / "config.json"))
    parts = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    modules = {name: _part(path / name, kind) for name, kind in parts.items()}
    own = path / "tokenizer"
    return Base(
        **modules,
        tokenizer=FolderTokenizer(own) if own.is_dir() else EmbeddedTokenizer(),
        scheduler={**single_file.SCHEDULER, **_json(path / "scheduler" / "scheduler_config.json")},
        name=path.resolve().name,
        sha256=_sha256(_weight_files(path / "unet")),
    )


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


def _check_unet_config(path: Path, config: Mapping[str, Any]) -> None:
    if config.get("addition_embed_type") == "text_time":
        raise BaseInvalid(f"base {path} is of another architecture (SDXL): {ONLY}")
    if config.get("use_linear_projection"):
        raise BaseInvalid(f"base {path} is of another architecture (SD2.x): {ONLY}")
    if config.get("in_channels") != 4:
        raise BaseInvalid(f"base {path} is an inpainting or depth model: {ONLY}")
    downs = config.get("down_block_types", ())
    if list(downs) != ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]:
        raise BaseInvalid(f"base {path} has other blocks than SD1.5: {ONLY}")


def _part(folder: Path, kind: Any) -> nn.Module:
    """Load one module of a diffusers folder in float32, from safetensors only."""
    files = _weight_files(folder)
    variant = "fp16" if all(".fp16" in file.name for file in files) else None
    try:
        module = kind.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            torch_dtype=torch.float32,
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


def _weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a part: the full-precision ones, else the fp16 ones."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        has = "only a pickle" if any(folder.glob("*.bin")) else "no .safetensors file"
        raise BaseInvalid(f"base: {folder} has {has}: use the safetensors version of the model")
    plain = [file for file in files if ".fp16" not in file.name and ".non_ema" not in file.name]
    return plain or files


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BaseInvalid(f"base: {path} cannot be read ({error}): copy it again") from None


def _sha256(paths: list[Path]) -> str:
    """Return the SHA-256 of one file, or of several one after the other."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                total.update(block)
    return total.hexdigest()

"""Open an SD1.5 checkpoint with original names: configs from its shapes, weights by name.

No network and no stored configs: SD1.5's topology is fixed, its widths are read from the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from shira_core import keymaps
from shira_core.container import read_header
from shira_core.mask import Shape
from shira_core.names import UNET
from shira_core.translate import Source

from .errors import BaseInvalid

Module = TypeVar("Module", bound=nn.Module)
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer."
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "prediction_type": "epsilon",
}


class Checkpoint:
    """A `.safetensors` checkpoint: shapes at once, tensors when read.

    Raises FileInvalid when it is cut off, damaged, or a pickle under another name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header = read_header(path)
        self.metadata: Mapping[str, str] = header.metadata
        self.shapes: Mapping[str, Shape] = {n: info.shape for n, info in header.tensors.items()}
        self._file = safe_open(path, framework="pt")

    def read(self, name: str) -> Tensor:
        """Return one tensor as float32, in memory of its own."""
        return self._file.get_tensor(name).to(torch.float32, copy=True)

    def shape(self, name: str) -> Shape:
        if name not in self.shapes:
            raise BaseInvalid(
                f"base {self.path} has no weight {name}: it is not a whole SD1.5 model"
            )
        return self.shapes[name]


def scheduler_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return SD's scheduler; v-prediction and zero terminal SNR as the file's marks say."""
    declared = checkpoint.metadata.get("modelspec.prediction_type", "")
    v = "v_pred" in checkpoint.shapes or declared.startswith("v")
    return {
        **SCHEDULER,
        "prediction_type": "v_prediction" if v else "epsilon",
        "rescale_betas_zero_snr": "ztsnr" in checkpoint.shapes,
    }


def unet(checkpoint: Checkpoint) -> nn.Module:
    """Return the UNet."""
    blocks = [f"{UNET}input_blocks.{i}.0.in_layers.2.weight" for i in (1, 4, 7, 10)]
    context = checkpoint.shape(f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")
    with torch.device("meta"):
        module = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=tuple(checkpoint.shape(name)[0] for name in blocks),
            cross_attention_dim=context[1],
            attention_head_dim=8,
        )
    return _fill(module, checkpoint, _names(keymaps.unet(module.state_dict(), UNET)))


def vae(checkpoint: Checkpoint) -> nn.Module:
    """Return the picture autoencoder."""
    blocks = [f"{VAE}encoder.down.{i}.block.0.conv1.weight" for i in range(4)]
    with torch.device("meta"):
        module = AutoencoderKL(
            block_out_channels=tuple(checkpoint.shape(name)[0] for name in blocks),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
            scaling_factor=0.18215,
        )
    return _fill(module, checkpoint, _names(keymaps.vae(module.state_dict(), VAE)))


def text_encoder(checkpoint: Checkpoint) -> CLIPTextModel:
    """Return CLIP's text model; also from files whose names lack `text_model.`."""
    prefix = TEXT + "text_model."
    if not any(name.startswith(prefix) for name in checkpoint.shapes):
        prefix = TEXT
    rows, width = checkpoint.shape(f"{prefix}embeddings.token_embedding.weight")
    layers = {
        m[1] for name in checkpoint.shapes if (m := re.match(prefix + r".*layers\.(\d+)\.", name))
    }
    module = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=rows,
            hidden_size=width,
            intermediate_size=checkpoint.shape(f"{prefix}encoder.layers.0.mlp.fc1.weight")[0],
            num_hidden_layers=len(layers),
            num_attention_heads=12,
            projection_dim=width,
        )
    )
    return _fill(module, checkpoint, _names(keymaps.clip(module.state_dict(), prefix)))


def _names(sources: Mapping[str, Source]) -> dict[str, str]:
    return {name: source.name for name, source in sources.items()}


def _fill(module: Module, checkpoint: Checkpoint, names: Mapping[str, str]) -> Module:
    """Load every named weight; a 1x1 convolution fits a Linear of the same size."""
    wanted = module.state_dict()
    weights = {}
    for name, original in names.items():
        shape = checkpoint.shape(original)
        if not _same(shape, wanted[name].shape):
            raise BaseInvalid(
                f"base {checkpoint.path}: {original} is {_text(shape)} and SD1.5 needs "
                f"{_text(wanted[name].shape)}: give an SD1.5 checkpoint"
            )
        weights[name] = checkpoint.read(original).reshape(wanted[name].shape)
    missing = set(wanted) - set(weights) - {n for n in wanted if n.endswith("position_ids")}
    if missing:
        raise BaseInvalid(f"base {checkpoint.path}: no weight for {min(missing)}")
    module.load_state_dict(weights, strict=False, assign=True)
    return module


def _same(a: Iterable[int], b: Iterable[int]) -> bool:
    return [n for n in a if n != 1] == [n for n in b if n != 1]


def _text(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))

"""Open an SD1.5 or SDXL checkpoint with original names: configs from its shapes, weights by name.

No network and no stored configs: the topologies are fixed, the widths are read from the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from shira_core import keymaps, names
from shira_core.container import read_header
from shira_core.mask import Shape
from shira_core.names import UNET
from shira_core.translate import Source

from .errors import BaseInvalid

Module = TypeVar("Module", bound=nn.Module)
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer."
TEXT_XL = "conditioner.embedders.0.transformer."
TEXT_XL_2 = "conditioner.embedders.1.model."
CLIP_HEADS = 12
HEAD_WIDTH = 64  # of SDXL's UNet and of OpenCLIP: their original configs give it, not the number
LABEL = f"{UNET}label_emb.0.0.weight"
TIME_NUMBERS = 6  # SDXL's UNet is told: original size, cut, trained size
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

    @property
    def architecture(self) -> str:
        """What the names and shapes say: "sd15", "sdxl"... or "unknown"."""
        return names.detect(self.shapes)

    def read(self, source: Source, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the tensor, or the part of one, that `source` names, in memory of its own."""
        tensor = self._file.get_tensor(source.name)
        if source.parts > 1:
            tensor = tensor.chunk(source.parts)[source.part]
        return (tensor.t() if source.transposed else tensor).to(
            dtype, copy=True, memory_format=torch.contiguous_format
        )

    def shape(self, name: str) -> Shape:
        if name not in self.shapes:
            raise BaseInvalid(
                f"base {self.path} has no weight {name}: "
                f"it is not a whole {names.label(self.architecture)} model"
            )
        return self.shapes[name]

    def prefix(self, whole: str) -> str:
        """Return how CLIP's names begin: `whole`, and `text_model.` except in older files."""
        own = whole + "text_model."
        return own if any(name.startswith(own) for name in self.shapes) else whole


def scheduler_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return SD's scheduler; v-prediction and zero terminal SNR as the file's marks say."""
    declared = checkpoint.metadata.get("modelspec.prediction_type", "")
    v = "v_pred" in checkpoint.shapes or declared.startswith("v")
    return {
        **SCHEDULER,
        "prediction_type": "v_prediction" if v else "epsilon",
        "rescale_betas_zero_snr": "ztsnr" in checkpoint.shapes,
    }


def unet(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return the UNet."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        module = UNet2DConditionModel(**unet_config(checkpoint))
    return _fill(module, checkpoint, keymaps.unet(module.state_dict(), UNET), dtype)


def unet_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the arguments of diffusers' UNet2DConditionModel, as the shapes tell them."""
    return _unet_xl(checkpoint) if LABEL in checkpoint.shapes else _unet_1(checkpoint)


def _unet_1(checkpoint: Checkpoint) -> dict[str, Any]:
    context = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    return {
        "sample_size": 64,
        "block_out_channels": _widths(checkpoint, (1, 4, 7, 10)),
        "cross_attention_dim": checkpoint.shape(context)[1],
        "attention_head_dim": 8,
    }


def _unet_xl(checkpoint: Checkpoint) -> dict[str, Any]:
    widths, told = _widths(checkpoint, (1, 4, 7)), checkpoint.shape(LABEL)[1]
    context = f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    return {
        "sample_size": 128,
        "block_out_channels": widths,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, *(_depth(checkpoint, block) for block in (4, 7))),
        "cross_attention_dim": checkpoint.shape(context)[1],
        "attention_head_dim": tuple(max(1, width // HEAD_WIDTH) for width in widths),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (told - _pooled(checkpoint)) // TIME_NUMBERS,
        "projection_class_embeddings_input_dim": told,
    }


def _widths(checkpoint: Checkpoint, blocks: Iterable[int]) -> tuple[int, ...]:
    """Return the width of each level: of the first block that has it."""
    starts = (f"{UNET}input_blocks.{block}.0.in_layers.2.weight" for block in blocks)
    return tuple(checkpoint.shape(name)[0] for name in starts)


def _depth(checkpoint: Checkpoint, block: int) -> int:
    """Return the number of transformer blocks of an attention."""
    return _count(checkpoint, f"{UNET}input_blocks.{block}.1.transformer_blocks.")


def _count(checkpoint: Checkpoint, prefix: str) -> int:
    """Return how many numbers follow `prefix` in the names."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return len({m[1] for name in checkpoint.shapes if (m := pattern.match(name))})


def vae(checkpoint: Checkpoint) -> nn.Module:
    """Return the picture autoencoder, in float32: in float16 SDXL's gives no numbers."""
    from diffusers import AutoencoderKL

    blocks = [f"{VAE}encoder.down.{i}.block.0.conv1.weight" for i in range(4)]
    large = LABEL in checkpoint.shapes
    with torch.device("meta"):
        module = AutoencoderKL(
            block_out_channels=tuple(checkpoint.shape(name)[0] for name in blocks),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=1024 if large else 512,
            scaling_factor=0.13025 if large else 0.18215,
        )
    return _fill(module, checkpoint, keymaps.vae(module.state_dict(), VAE))


def text_encoder(
    checkpoint: Checkpoint, whole: str = TEXT, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """Return CLIP's text model, whose names begin with `whole`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    prefix = checkpoint.prefix(whole)
    rows, width = checkpoint.shape(f"{prefix}embeddings.token_embedding.weight")
    config = CLIPTextConfig(
        vocab_size=rows,
        hidden_size=width,
        intermediate_size=checkpoint.shape(f"{prefix}encoder.layers.0.mlp.fc1.weight")[0],
        num_hidden_layers=_count(checkpoint, f"{prefix}encoder.layers."),
        num_attention_heads=CLIP_HEADS,
        projection_dim=width,
    )
    with torch.device("meta"):
        module = CLIPTextModel(config)
    return _fill(module, checkpoint, keymaps.clip(module.state_dict(), prefix), dtype)


def text_encoder_2(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return SDXL's second text model, OpenCLIP's, with its projection."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    rows, width = checkpoint.shape(f"{TEXT_XL_2}token_embedding.weight")
    blocks = f"{TEXT_XL_2}transformer.resblocks."
    config = CLIPTextConfig(
        vocab_size=rows,
        hidden_size=width,
        intermediate_size=checkpoint.shape(f"{blocks}0.mlp.c_fc.weight")[0],
        num_hidden_layers=_count(checkpoint, blocks),
        num_attention_heads=max(1, width // HEAD_WIDTH),
        projection_dim=_pooled(checkpoint),
        hidden_act="gelu",
    )
    with torch.device("meta"):
        module = CLIPTextModelWithProjection(config)
    sources = keymaps.openclip(module.state_dict(), TEXT_XL_2)
    sources["text_projection.weight"] = _projection(checkpoint)
    return _fill(module, checkpoint, sources, dtype)


def _projection(checkpoint: Checkpoint) -> Source:
    """Return where the projection lies: OpenCLIP's own matrix, or a Linear's, which is turned."""
    plain = f"{TEXT_XL_2}text_projection.weight"
    if plain in checkpoint.shapes:
        return Source(plain)
    return Source(f"{TEXT_XL_2}text_projection", transposed=True)


def _pooled(checkpoint: Checkpoint) -> int:
    """Return the width of the second text model's projection."""
    source = _projection(checkpoint)
    return _seen(checkpoint.shape(source.name), source)[0]


def _fill(
    module: Module,
    checkpoint: Checkpoint,
    sources: Mapping[str, Source],
    dtype: torch.dtype = torch.float32,
) -> Module:
    """Load every named weight; a 1x1 convolution fits a Linear of the same size."""
    wanted = module.state_dict()
    weights = {}
    for name, source in sources.items():
        shape = _seen(checkpoint.shape(source.name), source)
        if not _same(shape, wanted[name].shape):
            what = names.label(checkpoint.architecture)
            raise BaseInvalid(
                f"base {checkpoint.path}: {source.name} is {_text(shape)} and {what} needs "
                f"{_text(wanted[name].shape)}: give an ordinary {what} checkpoint"
            )
        weights[name] = checkpoint.read(source, dtype).reshape(wanted[name].shape)
    for name, buffer in module.named_buffers():
        if name.endswith("position_ids"):
            weights[name] = torch.arange(buffer.numel()).view(buffer.shape)
    if missing := set(wanted) - set(weights):
        raise BaseInvalid(f"base {checkpoint.path}: no weight for {min(missing)}")
    for name, tensor in weights.items():
        _put(module, name, tensor)
    return module


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace a parameter or a buffer; `load_state_dict` would pass over position numbers."""
    place, _, own = name.rpartition(".")
    owner = module.get_submodule(place)
    if own in owner._buffers:
        owner._buffers[own] = tensor
    else:
        owner._parameters[own] = nn.Parameter(tensor, requires_grad=False)


def _seen(shape: Shape, source: Source) -> Shape:
    """Return the shape of the part of a weight that `source` names."""
    part = (shape[0] // source.parts, *shape[1:])
    return part[::-1] if source.transposed else part


def _same(a: Iterable[int], b: Iterable[int]) -> bool:
    return [n for n in a if n != 1] == [n for n in b if n != 1]


def _text(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))

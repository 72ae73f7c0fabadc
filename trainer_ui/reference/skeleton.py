"""The weights of SD1.5 by original name, at any width: names and shapes, no numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from shira_core.mask import Shape
from shira_core.names import UNET

VAE, TEXT = "first_stage_model.", "cond_stage_model.transformer.text_model."
IDS = TEXT + "embeddings.position_ids"  # int64 (1, 77), 0..76
TOKENS, CONTEXT, LATENT = 49408, 77, 4
Shapes = dict[str, Shape]


@dataclass(frozen=True)
class Widths:
    """What sets one model of SD1.5's topology apart from another.

    unet, vae: channels of the four levels. text: width of the text encoder, which cross-attention
    reads; inner: of its MLPs; layers: how many it has; tokens: rows of its embedding.
    """

    unet: Shape
    vae: Shape
    text: int
    inner: int
    layers: int
    tokens: int


FULL = Widths((320, 640, 1280, 1280), (128, 256, 512, 512), 768, 3072, 12, TOKENS)


def shapes(widths: Widths) -> Shapes:
    """Return the shape of each of the model's weights, without position numbers."""
    return {**_unet(widths), **_vae(widths.vae), **_text(widths)}


def measure(found: Mapping[str, Shape]) -> Widths:
    """Return the widths of a model from the shapes of its weights; KeyError if it has others."""
    levels = [f"{UNET}input_blocks.{n}.0.in_layers.2.weight" for n in (1, 4, 7, 10)]
    depths = [f"{VAE}encoder.down.{n}.block.0.conv1.weight" for n in range(4)]
    layers = {name.split(".")[5] for name in found if name.startswith(TEXT + "encoder.layers.")}
    tokens, width = found[TEXT + "embeddings.token_embedding.weight"]
    return Widths(
        unet=tuple(found[name][0] for name in levels),
        vae=tuple(found[name][0] for name in depths),
        text=width,
        inner=found[TEXT + "encoder.layers.0.mlp.fc1.weight"][0],
        layers=len(layers),
        tokens=tokens,
    )


def _layer(name: str, *shape: int) -> Shapes:
    """Return weight and bias of a layer, or of a norm of so many channels."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _conv(name: str, outputs: int, inputs: int, kernel: int = 3) -> Shapes:
    return _layer(name, outputs, inputs, kernel, kernel)


def _joined(prefix: str, parts: Iterator[Shapes]) -> Shapes:
    return {prefix + name: shape for part in parts for name, shape in part.items()}


# ---- UNet ----
def _unet(widths: Widths) -> Shapes:
    return _joined(UNET, _unet_parts(widths.unet, widths.text))


def _unet_parts(levels: Sequence[int], context: int) -> Iterator[Shapes]:
    first, time = levels[0], 4 * levels[0]
    yield _layer("time_embed.0", time, first)
    yield _layer("time_embed.2", time, time)
    yield _conv("input_blocks.0.0", first, LATENT)
    yield from _down(levels, context)
    yield _resnet("middle_block.0", levels[-1], levels[-1], time)
    yield _transformer("middle_block.1", levels[-1], context)
    yield _resnet("middle_block.2", levels[-1], levels[-1], time)
    yield from _up(levels, context)
    yield _layer("out.0", first)
    yield _conv("out.2", LATENT, first)


def _down(levels: Sequence[int], context: int) -> Iterator[Shapes]:
    channels = levels[0]
    for level, width in enumerate(levels):
        for number in (1, 2):
            block = f"input_blocks.{3 * level + number}"
            yield _resnet(f"{block}.0", channels, width, 4 * levels[0])
            channels = width
            if level < 3:
                yield _transformer(f"{block}.1", width, context)
        if level < 3:
            yield _conv(f"input_blocks.{3 * level + 3}.0.op", width, width)


def _up(levels: Sequence[int], context: int) -> Iterator[Shapes]:
    channels = levels[-1]
    skips = [levels[max(0, n - 1) // 3] for n in range(12)]  # what input_blocks.n hands over
    for place, level in enumerate((3, 2, 1, 0)):
        width = levels[level]
        for number in range(3):
            block = f"output_blocks.{3 * place + number}"
            yield _resnet(f"{block}.0", channels + skips.pop(), width, 4 * levels[0])
            channels = width
            if level < 3:
                yield _transformer(f"{block}.1", width, context)
        if level:
            yield _conv(f"{block}.{2 if level < 3 else 1}.conv", width, width)


def _resnet(name: str, inputs: int, outputs: int, time: int) -> Shapes:
    skip = _conv(f"{name}.skip_connection", outputs, inputs, 1) if inputs != outputs else {}
    return {
        **_layer(f"{name}.in_layers.0", inputs),
        **_conv(f"{name}.in_layers.2", outputs, inputs),
        **_layer(f"{name}.emb_layers.1", outputs, time),
        **_layer(f"{name}.out_layers.0", outputs),
        **_conv(f"{name}.out_layers.3", outputs, outputs),
        **skip,
    }


def _transformer(name: str, width: int, context: int) -> Shapes:
    block = f"{name}.transformer_blocks.0"
    found = {
        **_layer(f"{name}.norm", width),
        **_conv(f"{name}.proj_in", width, width, 1),
        **_conv(f"{name}.proj_out", width, width, 1),
        **_layer(f"{block}.ff.net.0.proj", 8 * width, width),
        **_layer(f"{block}.ff.net.2", width, 4 * width),
    }
    for number in (1, 2, 3):
        found |= _layer(f"{block}.norm{number}", width)
    for attention, inputs in (("attn1", width), ("attn2", context)):
        found |= _layer(f"{block}.{attention}.to_out.0", width, width)
        for part, columns in (("to_q", width), ("to_k", inputs), ("to_v", inputs)):
            found[f"{block}.{attention}.{part}.weight"] = (width, columns)
    return found


# ---- VAE ----
def _vae(levels: Sequence[int]) -> Shapes:
    parts = {
        **_joined("encoder.", _encoder(levels)),
        **_joined("decoder.", _decoder(levels)),
        **_conv("quant_conv", 2 * LATENT, 2 * LATENT, 1),
        **_conv("post_quant_conv", LATENT, LATENT, 1),
    }
    return {VAE + name: shape for name, shape in parts.items()}


def _encoder(levels: Sequence[int]) -> Iterator[Shapes]:
    channels = levels[0]
    yield _conv("conv_in", channels, 3)
    for level, width in enumerate(levels):
        for number in (0, 1):
            yield _vae_block(f"down.{level}.block.{number}", channels, width)
            channels = width
        if level < 3:
            yield _conv(f"down.{level}.downsample.conv", width, width)
    yield from _middle(channels)
    yield _layer("norm_out", channels)
    yield _conv("conv_out", 2 * LATENT, channels)


def _decoder(levels: Sequence[int]) -> Iterator[Shapes]:
    channels = levels[-1]
    yield _conv("conv_in", channels, LATENT)
    yield from _middle(channels)
    for level in (3, 2, 1, 0):
        for number in range(3):
            yield _vae_block(f"up.{level}.block.{number}", channels, levels[level])
            channels = levels[level]
        if level:
            yield _conv(f"up.{level}.upsample.conv", channels, channels)
    yield _layer("norm_out", channels)
    yield _conv("conv_out", 3, channels)


def _middle(width: int) -> Iterator[Shapes]:
    yield _vae_block("mid.block_1", width, width)
    yield _layer("mid.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield _conv(f"mid.attn_1.{part}", width, width, 1)
    yield _vae_block("mid.block_2", width, width)


def _vae_block(name: str, inputs: int, outputs: int) -> Shapes:
    skip = _conv(f"{name}.nin_shortcut", outputs, inputs, 1) if inputs != outputs else {}
    return {
        **_layer(f"{name}.norm1", inputs),
        **_conv(f"{name}.conv1", outputs, inputs),
        **_layer(f"{name}.norm2", outputs),
        **_conv(f"{name}.conv2", outputs, outputs),
        **skip,
    }


# ---- text encoder ----
def _text(widths: Widths) -> Shapes:
    return _joined(TEXT, _text_parts(widths.text, widths))


def _text_parts(width: int, widths: Widths) -> Iterator[Shapes]:
    yield {
        "embeddings.token_embedding.weight": (widths.tokens, width),
        "embeddings.position_embedding.weight": (CONTEXT, width),
    }
    for number in range(widths.layers):
        layer = f"encoder.layers.{number}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield _layer(f"{layer}.self_attn.{part}", width, width)
        for norm in ("layer_norm1", "layer_norm2"):
            yield _layer(f"{layer}.{norm}", width)
        yield _layer(f"{layer}.mlp.fc1", widths.inner, width)
        yield _layer(f"{layer}.mlp.fc2", width, widths.inner)
    yield _layer("final_layer_norm", width)

"""What weight names say, and how alphas are written on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from shira_core import errors, names
from shira_core.alpha import Alpha, parse
from shira_core.cli.common import split_alpha

UNET = "model.diffusion_model."
CASES = [
    (UNET + "input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight", "unet", "in4"),
    (UNET + "middle_block.1.proj_in.weight", "unet", "mid"),
    (UNET + "output_blocks.11.0.in_layers.2.weight", "unet", "out11"),
    (UNET + "time_embed.0.weight", "unet", ""),
    (UNET + "double_blocks.3.img_attn.qkv.weight", "unet", "double3"),
    ("double_blocks.3.img_attn.qkv.weight", "unet", "double3"),
    ("single_blocks.17.linear1.weight", "unet", "single17"),
    (UNET + "joint_blocks.2.x_block.attn.qkv.weight", "unet", "joint2"),
    ("blocks.5.self_attn.q.weight", "unet", "block5"),
    (
        "cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc1.weight",
        "te1",
        "te1.11",
    ),
    (
        "conditioner.embedders.0.transformer.text_model.encoder.layers.2.mlp.fc1.weight",
        "te1",
        "te1.2",
    ),
    (
        "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight",
        "te2",
        "te2.31",
    ),
    ("conditioner.embedders.1.model.text_projection", "te2", ""),
    (
        "text_encoders.t5xxl.transformer.encoder.block.4.layer.0.SelfAttention.q.weight",
        "te3",
        "te3.4",
    ),
    ("first_stage_model.decoder.up.1.block.0.conv1.weight", "vae", ""),
]


@pytest.mark.parametrize(("name", "component", "block"), CASES, ids=[c[0] for c in CASES])
def test_component_and_block(name: str, component: str, block: str) -> None:
    assert (names.component(name), names.block(name)) == (component, block)
    if block:
        assert Alpha(1.0, {}, {block: 0.25}).at(name) == 0.25


STEM = UNET + "input_blocks.0.0.weight"
LATER = UNET + "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
REFINER = {"conditioner.embedders.0.model.ln_final.weight": (1280,)}
CONTEXT = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.mark.parametrize(
    ("shapes", "architecture"),
    [
        ({STEM: (320, 4, 3, 3), CONTEXT: (320, 768)}, "sd15"),
        ({STEM: (32, 4, 3, 3), CONTEXT: (32, 192)}, "sd15-compact"),
        ({STEM: (320, 4, 3, 3), CONTEXT: (320, 1024)}, "sd2"),
        (
            {STEM: (320, 4, 3, 3), "conditioner.embedders.1.model.ln_final.weight": (1280,)},
            "sdxl",
        ),
        ({STEM: (320, 4, 3, 3), UNET + "label_emb.0.0.weight": (1280, 2816)}, "sdxl"),
        ({STEM: (384, 4, 3, 3), LATER: (768, 1280), **REFINER}, "sdxl-refiner"),
        ({"double_blocks.0.img_attn.qkv.weight": (9216, 3072)}, "flux"),
        ({UNET + "joint_blocks.0.x_block.attn.qkv.weight": (4608, 1536)}, "sd3"),
        ({"layer.weight": (3, 3)}, "unknown"),
        ({}, "unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_architecture(shapes: dict[str, tuple[int, ...]], architecture: str) -> None:
    assert names.detect(shapes) == architecture


@pytest.mark.parametrize(
    ("argument", "path", "alpha"),
    [
        ("a.shira", "a.shira", Alpha()),
        ("a.shira:0.8", "a.shira", Alpha(0.8)),
        ("a.shira:-1", "a.shira", Alpha(-1.0)),
        ("a.shira:.5", "a.shira", Alpha(0.5)),
        ("a.shira:0.8,te=0.5,mid=0", "a.shira", Alpha(0.8, {"te": 0.5}, {"mid": 0.0})),
        ("a.shira:te2=1.5", "a.shira", Alpha(1.0, {"te2": 1.5})),
        ("a.shira:in4=0,te1.7=2", "a.shira", Alpha(1.0, {}, {"in4": 0.0, "te1.7": 2.0})),
        (r"C:\styles\a.shira:0.5", r"C:\styles\a.shira", Alpha(0.5)),
        (r"C:\styles\a.shira", r"C:\styles\a.shira", Alpha()),
    ],
)
def test_file_with_alpha(argument: str, path: str, alpha: Alpha) -> None:
    assert split_alpha(argument) == (Path(path), alpha)


def test_a_file_with_such_a_name_wins(tmp_path: Path) -> None:
    odd = tmp_path / "ink:0.5"
    odd.touch()
    assert split_alpha(str(odd)) == (odd, Alpha())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.8,te", "write 0.8 or"),
        ("1,clip=0.5", "block 'clip' is unknown"),
        ("nan", "not a finite number"),
        ("0.8,te=inf", "not a finite number"),
        ("", "write 0.8 or"),
    ],
)
def test_alphas_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(errors.InvalidValue, match=message):
        parse(text)


def test_components_that_do_not_exist() -> None:
    with pytest.raises(errors.InvalidValue, match="component 'clip' is unknown"):
        Alpha(1.0, {"clip": 0.5})

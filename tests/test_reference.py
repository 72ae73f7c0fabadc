"""The compact base at SD1.5's size: rules, names, tokens and adapters, without the large file."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from adapters import bits, random_adapter
from deltas import random_delta, struct_delta
from torch.nn.functional import conv2d, group_norm, linear

import shira_core as shira
from shira_core import keymaps
from shira_core.mask import SparseDelta
from shira_core.names import UNET
from trainer_ui.reference import skeleton
from trainer_ui.reference.adapter import widen_adapter
from trainer_ui.reference.compact import CLIP_ROWS, FOLDER, FULL_SHAPES, Compact
from trainer_ui.reference.skeleton import FULL, TEXT, VAE
from trainer_ui.reference.widening import query_shares, rule, widen, widen_delta

BLOCK = "input_blocks.1.1.transformer_blocks.0."
LAYER = f"{TEXT}encoder.layers.0."
TOKEN_ROWS = torch.tensor([0, 2, 1, 1, 0, 2, 2])
# name of a weight, its compact shape, its full shape
CASES = {
    "linear": (f"{UNET}{BLOCK}attn1.to_v.weight", (6, 4), (18, 12)),
    "context": (f"{UNET}{BLOCK}attn2.to_k.weight", (6, 4), (12, 16)),
    "conv": (f"{UNET}input_blocks.1.0.in_layers.2.weight", (4, 6, 3, 3), (8, 12, 3, 3)),
    "first conv": (f"{UNET}input_blocks.0.0.weight", (6, 4, 3, 3), (24, 4, 3, 3)),
    "last conv": (f"{UNET}out.2.weight", (4, 6, 3, 3), (4, 24, 3, 3)),
    "query": (f"{UNET}{BLOCK}attn1.to_q.weight", (6, 4), (60, 40)),
    "query bias": (f"{LAYER}self_attn.q_proj.bias", (6,), (24,)),
    "bias": (f"{LAYER}mlp.fc1.bias", (6,), (18,)),
    "tokens": (f"{TEXT}embeddings.token_embedding.weight", (3, 4), (7, 12)),
    "positions": (f"{TEXT}embeddings.position_embedding.weight", (5, 4), (5, 12)),
}


@pytest.fixture(scope="module")
def base() -> Compact:
    return Compact()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- rules ----
def of(case: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a random compact weight of a case, and what it is widened to."""
    name, compact, full = CASES[case]
    weight = random(*compact)
    return weight, widen(weight, rule(name, compact, full, TOKEN_ROWS), torch.float32)


@pytest.mark.parametrize("case", ["linear", "context"])
def test_a_widened_matrix_maps_copies_to_copies(case: str) -> None:
    weight, full = of(case)
    copies, outputs = full.shape[1] // weight.shape[1], full.shape[0] // weight.shape[0]
    inputs = random(5, weight.shape[1], seed=1)
    found = linear(inputs.repeat_interleave(copies, 1), full)
    torch.testing.assert_close(found, linear(inputs, weight).repeat_interleave(outputs, 1))


@pytest.mark.parametrize("case", ["conv", "first conv", "last conv"])
def test_a_widened_convolution_maps_copies_to_copies(case: str) -> None:
    weight, full = of(case)
    copies, outputs = full.shape[1] // weight.shape[1], full.shape[0] // weight.shape[0]
    inputs = random(2, weight.shape[1], 5, 5, seed=1)
    found = conv2d(inputs.repeat_interleave(copies, 1), full)
    torch.testing.assert_close(found, conv2d(inputs, weight).repeat_interleave(outputs, 1))


def test_copies_side_by_side_are_normalised_as_one_channel() -> None:
    inputs, weight = random(2, 6, 4, 4), random(6, seed=1)
    wide = group_norm(inputs.repeat_interleave(5, 1), 3, weight.repeat_interleave(5))
    torch.testing.assert_close(wide, group_norm(inputs, 3, weight).repeat_interleave(5, 1))
    weight, full = of("bias")
    assert torch.equal(full, weight.repeat_interleave(3))


def test_widened_queries_and_keys_give_the_scores_of_the_compact_ones() -> None:
    weight, full = of("query")
    inputs, keys = random(3, 4, seed=1), random(5, 6, seed=2)
    scores = linear(inputs, weight) @ keys.T / math.sqrt(6)
    wide = linear(inputs.repeat_interleave(10, 1), full) @ keys.repeat_interleave(10, 1).T
    torch.testing.assert_close(wide / math.sqrt(60), scores)


@pytest.mark.parametrize("copies", [1, 2, 4, 5, 8, 10])
def test_shares_of_a_query_add_up_and_are_exact(copies: int) -> None:
    shares = query_shares(copies)
    assert math.isclose(sum(shares), math.sqrt(copies))
    for share in shares[:-1]:
        assert share == 0 or math.frexp(abs(share))[0] == 0.5  # a power of two


def test_embeddings_are_looked_up_and_repeated() -> None:
    weight, full = of("tokens")
    assert torch.equal(full, torch.stack([weight[n].repeat_interleave(3) for n in TOKEN_ROWS]))
    weight, full = of("positions")
    assert torch.equal(full, weight.repeat_interleave(3, 1))


@pytest.mark.parametrize(
    ("case", "struct"),
    [(case, struct) for case in CASES for struct in (False, True) if len(CASES[case][1]) > struct],
)
def test_a_widened_delta_is_the_widened_dense_delta(case: str, struct: bool) -> None:
    name, compact, full = CASES[case]
    delta = struct_delta(compact, [1], [0, 2], True) if struct else random_delta(compact, 0.4, 3)
    how = rule(name, compact, full, TOKEN_ROWS)
    found = widen_delta(delta, how)
    assert found.shape == full
    assert found.values.dtype == delta.values.dtype
    assert bool((found.positions.diff() > 0).all())
    torch.testing.assert_close(found.dense(), widen(delta.dense(), how, torch.float32))


# ---- names and shapes ----
def test_names_and_shapes_are_those_of_diffusers_and_transformers() -> None:
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        vae = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )
        text = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=49408, hidden_size=768, intermediate_size=3072, num_attention_heads=12
            )
        )
    found = {}
    for module, keymap, prefix in (
        (unet, keymaps.unet, UNET),
        (vae, keymaps.vae, VAE),
        (text, keymaps.clip, TEXT),
    ):
        weights = module.state_dict()
        for name, source in keymap(weights, prefix).items():
            shape = tuple(weights[name].shape)
            matrix = prefix == VAE and "attentions" in name and len(shape) == 2
            found[source.name] = (*shape, 1, 1) if matrix else shape
    found.pop(skeleton.IDS, None)
    assert found == FULL_SHAPES
    assert len(found) == 1130
    assert skeleton.measure(found) == FULL


# ---- tokens ----
def test_prompts_read_the_rows_that_the_compact_tokenizer_gives() -> None:
    pytest.importorskip("instant_clip_tokenizer")
    pytest.importorskip("transformers")
    from trainer_ui.engine.tokenizer import EmbeddedTokenizer, FolderTokenizer

    folder = FOLDER / "tokenizer"
    clip, own = EmbeddedTokenizer(), FolderTokenizer(folder)
    tokens = json.loads((folder / "vocab.json").read_text("utf-8"))
    words = [token[:-4] for token in tokens if token.endswith("</w>") and token[:-4].isalpha()]
    words = [word for word in words if word.isascii() and clip.count(word) == 1]
    assert len(words) > 100
    prompts = ["", *(f"a {word}, {word} style" for word in words)]
    rows = torch.from_numpy(np.load(FOLDER / CLIP_ROWS).astype(np.int64))
    assert torch.equal(rows[clip(prompts)], own(prompts))


def test_unknown_words_read_the_last_piece_that_the_compact_tokenizer_cuts() -> None:
    clip = pytest.importorskip("instant_clip_tokenizer").Tokenizer()
    pytest.importorskip("transformers")
    from trainer_ui.engine.tokenizer import FolderTokenizer

    rows = np.load(FOLDER / CLIP_ROWS)
    texts = {number: clip.decode([number]) for number in range(512, 49406)}
    words = {n: t[:-1] for n, t in texts.items() if t[:-1].isascii() and t[:-1].isalpha()}
    words = {n: word for n, word in words.items() if texts[n].endswith(" ")}
    ids = FolderTokenizer(FOLDER / "tokenizer")(list(words.values()))
    last = ids.gather(1, ids.argmax(1, keepdim=True) - 1).view(-1)  # the end has the highest number
    assert len(words) > 30_000
    assert (last.numpy() == rows[list(words)]).mean() > 0.95
    assert (rows[:-1] != rows[-1]).all()  # no word ends the text


# ---- adapters ----
PICKS = (
    f"{UNET}{BLOCK}attn1.to_q.weight",
    f"{UNET}{BLOCK}attn2.to_v.weight",
    f"{UNET}input_blocks.4.0.in_layers.2.weight",
    f"{UNET}input_blocks.4.0.in_layers.2.bias",
    f"{UNET}out.2.weight",
    f"{VAE}decoder.mid.attn_1.q.weight",
    f"{LAYER}self_attn.q_proj.weight",
    f"{LAYER}self_attn.q_proj.bias",
    f"{TEXT}embeddings.token_embedding.weight",
)


def adapter_for(base: Compact, mask: str) -> shira.Adapter:
    shapes = {name: base.shapes[name] for name in PICKS}
    about = {"architecture": "sd15-compact", "base": "base", "base_sha256": "ab" * 32}
    return random_adapter(shapes, 1, mask=mask, scale=0.05, triggers=("ink",), **about)


@pytest.mark.parametrize("mask", ["wm", "struct"])
def test_adding_and_widening_can_be_exchanged_bit_for_bit(base: Compact, mask: str) -> None:
    adapter = adapter_for(base, mask)
    wide = widen_adapter(adapter, base)
    small = {name: base.read(name).clone() for name in PICKS}
    large = {name: base.widened(name) for name in PICKS}
    with shira.apply(small, [(adapter, 1.0)]), shira.apply(large, [(wide, 1.0)]):
        for name in PICKS:
            how = base.rule(name)
            wanted = widen(small[name], how, torch.float16)
            parts = (base.read(name), adapter.weights[name].dense())
            exact = normal(*(widen(part, how, torch.float32) for part in parts))
            if how.shares is None:
                exact[:] = True
            assert torch.equal(large[name][exact], wanted[exact]), name
            torch.testing.assert_close(large[name], wanted, rtol=2**-10, atol=2**-24)


def normal(*tensors: torch.Tensor) -> torch.Tensor:
    """Tell where no number is so small that float16 holds fewer of its digits."""
    return torch.stack([(t == 0) | (t.abs() >= 2**-14) for t in tensors]).all(0)


def test_the_command_writes_a_widened_adapter_without_the_trainers_packages(
    base: Compact, tmp_path: Path
) -> None:
    path, out = adapter_for(base, "wm").save(tmp_path / "a.shira"), tmp_path / "b.shira"
    program = (
        "import sys; from shira_core.cli import main; code = main(sys.argv[1:]); "
        "extra = {'diffusers', 'transformers', 'pydantic', 'rich', 'PIL'} & set(sys.modules); "
        "sys.exit(' '.join(sorted(extra)) or code)"
    )
    line = [sys.executable, "-c", program, "reference", str(out), "--adapter", str(path)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=FOLDER.parents[1])
    assert (done.returncode, done.stderr) == (0, "")
    found, wanted = shira.load(out), widen_adapter(shira.load(path), base)
    assert found.header.architecture == "sd15"
    assert found.header.triggers == ("ink",)
    assert "SHiRA reference base" in found.header.base
    assert found.header.base_sha256 == ""
    for name in PICKS:
        assert same(found.weights[name], wanted.weights[name])


def same(a: SparseDelta, b: SparseDelta) -> bool:
    return bits(a.positions) == bits(b.positions) and bits(a.values) == bits(b.values)

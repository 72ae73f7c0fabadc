"""Adapters of transformers' language models: trained, kept, applied, baked, and undone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

pytest.importorskip("transformers")
import transformers

import shira_core as shira
from shira_core.errors import InvalidValue, WeightMissing

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = 32
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def llama(**options: Any) -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, **options))


def tied() -> nn.Module:
    return llama(tie_word_embeddings=True)


def qwen() -> nn.Module:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SMALL))


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2
    )
    return transformers.GPT2LMHeadModel(config)


def t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=16,
        d_ff=48,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    return transformers.T5ForConditionalGeneration(config)


# the model, and the weights that `layers=` chooses in a block of it
MODELS: dict[str, tuple[Callable[[], nn.Module], list[str], int]] = {
    "llama": (llama, ["*_proj"], 14),
    "llama, tied": (tied, ["*_proj"], 14),
    "qwen": (qwen, ["*_proj"], 14),
    "gpt2": (gpt2, ["*.c_attn", "*.c_proj", "*.c_fc"], 8),
    "t5": (t5, ["*Attention.*", "*DenseReluDense*"], 16),
}


def made(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS[name][0]().to(dtype).eval()


def tokens(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (4, 8), generator=generator)


def loss_of(model: nn.Module, seed: int) -> Tensor:
    return model(input_ids=tokens(seed), labels=tokens(seed)).loss


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(input_ids=tokens(), labels=tokens()).logits


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def learned(
    model: nn.Module, layers: list[str], mask: str = "rand", seed: int = 0, **options: Any
) -> tuple[shira.Adapter, Tensor]:
    """Train a few steps; return the adapter, and the logits of the model as it was trained."""
    with shira.training.finetune(model, mask, layers=layers, seed=seed, **options) as run:
        optimizer = torch.optim.AdamW(run.parameters(), lr=0.05)
        for number in range(3):
            loss_of(model, seed + number).backward()
            optimizer.step()
            optimizer.zero_grad()
        return run.adapter(base="random"), logits(model)


@pytest.mark.parametrize("mask", ["rand", "wm", "struct", "grad", "snip"])
@pytest.mark.parametrize("name", MODELS)
def test_a_file_gives_the_trained_model_and_comes_off_again(
    name: str, mask: str, tmp_path: Path
) -> None:
    layers, count = MODELS[name][1:]
    model = made(name)
    base, before = weights(model), logits(model)
    options = {}
    if mask in ("grad", "snip"):
        options["gradients"] = shira.training.calibrate(model, range(2), loss_of, layers=layers)
    adapter, trained = learned(model, layers, mask, **options)
    assert same(weights(model), base)
    assert len(adapter.weights) == count
    adapter.save(tmp_path / "task.shira")
    with shira.apply(model, [(shira.load(tmp_path / "task.shira"), 1.0)]):
        assert torch.equal(logits(model), trained)
        assert not torch.equal(trained, before)
    assert torch.equal(logits(model), before)
    assert same(weights(model), base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_two_tasks_are_switched_added_and_undone(dtype: torch.dtype) -> None:
    model = made("llama", dtype)
    base = weights(model)
    layers = MODELS["llama"][1]
    (first, one), (second, other) = (learned(model, layers, seed=seed) for seed in (1, 2))
    with shira.apply(model, [(first, 1.0)]) as stack:
        assert torch.equal(logits(model), one)
        stack.set([(second, 1.0)])
        assert torch.equal(logits(model), other)
        stack.set([(first, 0.5), (second, 1.0)])
        for name, weight in model.state_dict().items():
            if name in first.weights:
                delta = 0.5 * first.weights[name].dense() + second.weights[name].dense()
                assert torch.equal(weight, (base[name].float() + delta).to(dtype))
    assert same(weights(model), base)


@pytest.mark.parametrize("name", ["llama", "llama, tied", "gpt2"])
def test_a_saved_model_is_baked_by_its_own_names(name: str, tmp_path: Path) -> None:
    model = made(name)
    adapter, trained = learned(model, MODELS[name][1])
    adapter.save(tmp_path / "task.shira")
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    command = ["bake", str(folder / "model.safetensors"), str(tmp_path / "baked.safetensors")]
    done = shira_command(*command, str(tmp_path / "task.shira"))
    assert done.returncode == 0, done.stderr
    os.replace(tmp_path / "baked.safetensors", folder / "model.safetensors")
    baked = type(model).from_pretrained(folder).eval()
    assert torch.equal(logits(baked), trained)


def test_a_tied_head_has_one_name_that_the_saved_model_has(tmp_path: Path) -> None:
    """The head is the table of the embeddings: one weight, trained once, saved under one name."""
    model = made("llama, tied")
    model.save_pretrained(tmp_path)
    checkpoint = load_file(tmp_path / "model.safetensors")
    alone, _ = learned(model, ["lm_head"])
    with shira.apply(model, [(alone, 1.0)]):
        assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    with pytest.raises(WeightMissing, match=r"no weight lm_head\.weight"):
        shira.apply(checkpoint, [(alone, 1.0)])
    table = {"lm_head.weight": "model.embed_tokens.weight"}
    named, _ = learned(model, ["lm_head"], names=lambda name: table.get(name, name))
    with shira.apply(checkpoint, [(named, 1.0)]), shira.apply(model, [(alone, 1.0)]):
        assert torch.equal(checkpoint["model.embed_tokens.weight"], model.lm_head.weight)
    both = {**dict(alone.weights.items()), **dict(named.weights.items())}
    with pytest.raises(InvalidValue, match="one tensor in the model and two weights"):
        shira.apply(model, [(shira.Adapter(shira.Header(), shira.MemoryWeights(both)), 1.0)])


def test_an_adapter_of_another_model_is_refused_by_the_weights_name() -> None:
    adapter, _ = learned(made("gpt2"), MODELS["gpt2"][1])
    model = made("llama")
    base = weights(model)
    with pytest.raises(WeightMissing, match=r"no weight transformer\.h\.0\.attn\.c_attn\.weight"):
        shira.apply(model, [(adapter, 1.0)])
    assert same(weights(model), base)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_trainer_of_transformers_moves_the_entries_alone(
    checkpointing: bool, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    model = made("llama")
    base = weights(model)
    lines = [{"input_ids": row, "labels": row} for row in tokens(1)] * 2
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        gradient_accumulation_steps=2,
        gradient_checkpointing=checkpointing,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    with shira.training.finetune(model, "wm", layers=MODELS["llama"][1]) as run:
        optimizer = torch.optim.AdamW(run.parameters(), lr=0.05)
        trainer = transformers.Trainer(
            model=model, args=settings, train_dataset=lines, optimizers=(optimizer, None)
        )
        trainer.train()
        adapter, trained = run.adapter(), logits(model.eval())
    assert same(weights(model), base)
    assert adapter.entries == run.entries
    with shira.apply(model, [(adapter, 1.0)]):
        assert torch.equal(logits(model), trained)
    assert not torch.equal(logits(model), trained)


def test_generation_follows_the_adapter() -> None:
    model = made("llama")
    adapter, _ = learned(model, MODELS["llama"][1], density=0.3)
    options = {"max_new_tokens": 6, "do_sample": False, "min_new_tokens": 6}
    plain = model.generate(tokens(), **options)
    with shira.apply(model, [(adapter, 1.0)]):
        assert not torch.equal(model.generate(tokens(), **options), plain)
    assert torch.equal(model.generate(tokens(), **options), plain)


def test_the_example_runs(tmp_path: Path) -> None:
    command = [sys.executable, "docs/examples/language_model.py", "--steps", "3"]
    done = run_in_root([*command, "--folder", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert re.search(r"every bit as before: True", done.stdout)
    assert len(list(tmp_path.glob("*.shira"))) == 2
    for path in tmp_path.glob("*.shira"):
        assert shira_command("verify", str(path)).returncode == 0


def shira_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_in_root([sys.executable, "-m", "shira_core.cli", *arguments])


def run_in_root(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

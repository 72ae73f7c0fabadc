"""Teach a small language model two tasks as sparse adapters, use both at once, and undo them.

    python docs/examples/language_model.py       # half a minute on a CPU; needs transformers

The base copies words. One adapter learns to answer with the next letters; another one, on top of
it and in other entries, with the next digits. For a model of your own change `base_model` and
`batch`.
"""

from __future__ import annotations

import argparse
import random
import string
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import shira_core as shira

LETTERS, DIGITS = string.ascii_lowercase, string.digits
CHARACTERS = "\n: " + LETTERS + DIGITS
LAYERS = "*_proj"  # attention and feed-forward of every block; embeddings and head stay
BATCH, LENGTH = 64, 5
TASKS = {"copy": LETTERS + DIGITS, "next letter": LETTERS, "next digit": DIGITS}


def main() -> None:
    """Train the base, then two adapters; apply one, both and the other; take them off again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    model = base_model(options.steps)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    print(f"base:      {scores(model)}")

    letters = learn(model, ["copy", "next letter"], 0, options.steps)
    with shira.apply(model, [(letters, 1.0)]):
        digits = learn(model, list(TASKS), 1, options.steps)
    paths = [options.folder / name for name in ("letters.shira", "digits.shira")]
    for adapter, path in zip((letters, digits), paths, strict=True):
        adapter.save(path, overwrite=True)
    letters, digits = map(shira.load, paths)
    total = sum(map(torch.numel, model.parameters()))
    common = shira.compare(letters, digits).overlap
    print(f"{letters.entries} of {total} weights each, {common:.0%} in common")

    with shira.apply(model, [(letters, 1.0)]) as stack:
        print(f"letters:   {scores(model)}")
        stack.set([(letters, 1.0), (digits, 1.0)])
        print(f"both:      {scores(model)}")
        stack.set([(digits, 1.0)])
        print(f"digits:    {scores(model)}")
    same = all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    print(f"off again: {scores(model)}; every bit as before: {same}")


def base_model(steps: int) -> nn.Module:
    """Return a small Llama that can copy."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(CHARACTERS),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    descend(model, list(model.parameters()), ["copy"], steps, rate=5e-3)
    return model


def learn(model: nn.Module, tasks: list[str], shard: int, steps: int) -> shira.Adapter:
    """Return an adapter that has learned the last task; the model is as before.

    The tasks before it are in the batches too, so that they are not forgotten. Adapters of
    different shards share no entry.
    """
    options = {"mask": "rand", "density": 0.05, "shard": shard, "layers": LAYERS}
    with shira.training.finetune(model, **options) as run:
        descend(model, run.parameters(), tasks, steps, rate=3e-2)
        return run.adapter(base="copying Llama", title=tasks[-1])


def descend(
    model: nn.Module, parameters: list[nn.Parameter], tasks: list[str], steps: int, rate: float
) -> None:
    """Train: an ordinary loop."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    draw = random.Random(f"train {tasks}")
    for _ in range(steps):
        tokens, labels = batch(draw, tasks)
        model(input_ids=tokens, labels=labels).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def batch(draw: random.Random, tasks: list[str]) -> tuple[Tensor, Tensor]:
    """Return tokens (64, 16) of lines such as "next abcde:bcdef", and labels for the answers."""
    lines = []
    for _ in range(BATCH):
        task = draw.choice(tasks)
        word = "".join(draw.choices(TASKS[task], k=LENGTH))
        answer = word if task == "copy" else "".join(following(c) for c in word)
        lines.append(f"\n{task[:4]} {word}:{answer}")
    tokens = torch.tensor([[CHARACTERS.index(c) for c in line] for line in lines])
    labels = tokens.clone()
    labels[:, :-LENGTH] = -100
    return tokens, labels


def following(character: str) -> str:
    """Return the next letter or digit; the first after the last."""
    row = LETTERS if character in LETTERS else DIGITS
    return row[(row.index(character) + 1) % len(row)]


@torch.no_grad()
def scores(model: nn.Module) -> str:
    """Return how many answers of each task are right, as text."""
    return ", ".join(f"{task} {score(model, task):.0%}" for task in TASKS)


def score(model: nn.Module, task: str) -> float:
    """Return the share of words of which every character is the likeliest one."""
    tokens, _ = batch(random.Random(f"test {task}"), [task])
    said = model(input_ids=tokens).logits.argmax(-1)[:, -LENGTH - 1 : -1]
    return (said == tokens[:, -LENGTH:]).all(1).float().mean().item()


if __name__ == "__main__":
    main()

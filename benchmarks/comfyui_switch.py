"""Changing what a model wears inside a real ComfyUI: Load SHiRA against LoraLoader at rank 64.

    COMFYUI_DIR=... python benchmarks/comfyui_switch.py

Full-size SD1.5 with the reference base's weights, 128x128, 2 steps, on the CPU, over HTTP. Every
action is one prompt that draws a picture with a new seed, so that "the same again" is what any
prompt costs: texts are not encoded anew and the sampling is all there is. The others are given as
seconds beyond that, in rounds that take turns between SHiRA and LoRA; the median of the rounds.

- first: the first picture with a file after the plain model.
- alpha: another strength. switch: another file, both used before. remove: the plain model again.
- step: seconds of a run's steps with n adapters over the plain model's, from the same rounds.

The host's Python is COMFYUI_PYTHON, or that of a `venv` in the checkout.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import HERE, save_results
from safetensors.torch import save_file

sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent)]
import hosts  # noqa: E402 - the tests know how to run a host

RANK, DENSITY = 64, 0.01
CHECKPOINT = "plain.safetensors"
FILES = {"shira": ("a.shira", "b.shira"), "lora": ("a.safetensors", "b.safetensors")}
MANY = (1, 2, 4, 8)
Graph = dict[str, Any]


# ---- files ----
def write_files(models: Path) -> None:
    """Write the checkpoint, adapters and LoRAs of its attention and feed-forward weights."""
    from shira_core.cli import main as shira

    checkpoint = models / "checkpoints" / CHECKPOINT
    assert shira(["reference", str(checkpoint)]) == 0
    layers = dict(matrices(checkpoint))
    for seed in range(max(MANY)):
        random_adapter(layers, seed).save(models / "shira" / f"{'abcdefgh'[seed]}.shira")
    for seed, name in enumerate(FILES["lora"]):
        save_file(random_lora(layers, seed), str(models / "loras" / name))


def matrices(checkpoint: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Return name and shape of what both change: the Linear weights of the transformer blocks."""
    from shira_core.container import read_header

    ends = (
        "to_q.weight",
        "to_k.weight",
        "to_v.weight",
        "to_out.0.weight",
        "proj.weight",
        "2.weight",
    )
    return [
        (name, tuple(info.shape))
        for name, info in read_header(checkpoint).tensors.items()
        if "transformer_blocks" in name and name.endswith(ends) and len(info.shape) == 2
    ]


def random_adapter(layers: dict[str, tuple[int, ...]], seed: int) -> Any:
    import shira_core as shira

    generator = torch.Generator().manual_seed(seed)
    weights = shira.MemoryWeights()
    for name, shape in layers.items():
        count = int(DENSITY * shape[0] * shape[1])
        places = torch.randperm(shape[0] * shape[1], generator=generator)[:count].sort().values
        values = torch.randn(count, generator=generator).mul_(0.01).half()
        weights[name] = shira.SparseDelta(shira.Mask(shape, places), values)
    return shira.Adapter(shira.Header(architecture="sd15"), weights)


def random_lora(layers: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Return a LoRA under names that LoraLoader takes as they are in the model."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, (outputs, inputs) in layers.items():
        layer = name.removeprefix("model.").removesuffix(".weight")
        for part, shape in (("up", (outputs, RANK)), ("down", (RANK, inputs))):
            found[f"{layer}.lora_{part}.weight"] = torch.randn(shape, generator=generator) * 0.01
    return found


# ---- graphs ----
def graph(seed: int, *wearing: tuple[str, str, float]) -> Graph:
    """Return a graph that draws with a chain of (kind, file, alpha)."""
    nodes: Graph = {
        "model": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "text": node("CLIPTextEncode", clip=["model", 1], text="cat"),
        "empty": node("EmptyLatentImage", width=128, height=128, batch_size=1),
    }
    model = "model"
    for number, (kind, file, alpha) in enumerate(wearing):
        nodes[f"worn{number}"] = worn(kind, model, file, alpha)
        model = f"worn{number}"
    between = {"positive": ["text", 0], "negative": ["text", 0], "latent_image": ["empty", 0]}
    how = {"steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    nodes["latent"] = node("KSampler", model=[model, 0], seed=seed, **how, **between)
    nodes["picture"] = node("VAEDecode", samples=["latent", 0], vae=["model", 2])
    nodes["seen"] = node("PreviewImage", images=["picture", 0])
    return nodes


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def worn(kind: str, model: str, file: str, alpha: float) -> dict[str, Any]:
    if kind == "shira":
        return node("SHiRALoader", model=[model, 0], adapter=file, alpha=alpha, alpha_te=alpha)
    return node("LoraLoaderModelOnly", model=[model, 0], lora_name=file, strength_model=alpha)


class Bench:
    """Draws and times; every picture has a seed of its own."""

    def __init__(self, server: Any) -> None:
        self.server, self.seed = server, 0

    def seconds(self, *wearing: tuple[str, str, float]) -> float:
        self.seed += 1
        began = time.perf_counter()
        number = self.server.ask("/prompt", {"prompt": graph(self.seed, *wearing)})["prompt_id"]
        history = self.server.wait(
            lambda: self.server.ask(f"/history/{number}").get(number), 600, "picture"
        )
        took = executed(history["status"]["messages"])
        assert history["status"]["status_str"] == "success", history["status"]
        return took if took is not None else time.perf_counter() - began


def executed(messages: list[Any]) -> float | None:
    """Return the seconds between the host's own time stamps, which know no polling."""
    stamps = {kind: said.get("timestamp") for kind, said in messages}
    begin, end = stamps.get("execution_start"), stamps.get("execution_success")
    return (end - begin) / 1000 if begin and end else None


def one_round(bench: Bench, kind: str) -> dict[str, float]:
    """Return the seconds of each action; the host wears nothing before and after."""
    first, second = FILES[kind]
    plain = bench.seconds()
    found = {
        "plain": plain,
        "first": bench.seconds((kind, first, 1.0)),
        "same": bench.seconds((kind, first, 1.0)),
        "alpha": bench.seconds((kind, first, 0.5)),
    }
    bench.seconds((kind, second, 1.0))
    found["switch"] = bench.seconds((kind, first, 0.5))
    found["remove"] = bench.seconds()
    found["plain again"] = bench.seconds()
    return found


def summary(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Return medians, and what an action takes beyond the plain model's picture of its round."""
    found = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    for name in ("first", "same", "alpha", "switch", "remove"):
        beyond = [each[name] - (each["plain"] + each["plain again"]) / 2 for each in rounds]
        found[f"{name} beyond sampling"] = statistics.median(beyond)
    return found


def many(bench: Bench, repeats: int) -> dict[str, float]:
    """Return the seconds of a picture with n adapters, over a picture of the plain model."""
    found = {}
    for count in MANY:
        stack = [("shira", f"{letter}.shira", 0.2) for letter in "abcdefgh"[:count]]
        bench.seconds(*stack)
        pairs = [(bench.seconds(*stack), bench.seconds()) for _ in range(repeats)]
        found[str(count)] = statistics.median(worn - plain for worn, plain in pairs)
    return found


def measure(repeats: int, note: Callable[[str], None]) -> dict[str, Any]:
    checkout = hosts.checkout("COMFYUI_DIR", "COMFYUI_PYTHON")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for each in ("models/checkpoints", "models/shira", "models/loras"):
            (base / each).mkdir(parents=True)
        write_files(base / "models")
        with hosts.serving_comfyui(checkout, base) as server:
            bench = Bench(server)
            bench.seconds()
            rounds: dict[str, list[dict[str, float]]] = {"shira": [], "lora": []}
            for _ in range(repeats):
                for kind, kept in rounds.items():
                    kept.append(one_round(bench, kind))
                    note(f"{kind} {kept[-1]}")
            results: dict[str, Any] = {kind: summary(kept) for kind, kept in rounds.items()}
            results["picture with n adapters, beyond the plain one"] = many(bench, repeats)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    results = measure(args.repeats, lambda line: print(line, flush=True))
    save_results("comfyui", {"repeats": args.repeats, "rank": RANK, "density": DENSITY, **results})


if __name__ == "__main__":
    main()

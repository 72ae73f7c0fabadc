"""How much of a fine-tuning is left in an adapter that keeps a part of its entries.

    python benchmarks/conversion.py

Trains the shipped base on its sample pictures: all weights of the UNet, a LoRA of rank 16, and for
comparison SHiRA itself. Takes adapters from the first two and writes results/conversion.json,
docs/images/converted.jpg and the tables of docs/converting.md to the terminal.

kept: share of the squared change in the adapter. missing: distance of the predicted noise from the
tuned model's, as a share of the base's distance from it (0: the tuned model, 100 %: the base).
best: the least of it over ALPHAS. loss: of the predicted noise, on the pictures of the training.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from common import DOCS, save_results
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import shira_core as shira
from shira_core.adapter import Adapter
from shira_core.conversion.choice import SCOPES, Choice, Energy
from shira_core.conversion.difference import extract
from shira_core.conversion.lora import from_lora
from shira_core.integrations.diffusers import load_shira
from trainer_ui import demo

DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
SHARES = (0.5, 0.9, 0.95, 0.99)
SHOWN = (0.5, 0.2, 0.1, 0.05, 0.02)
BATCH, RANK, SEED = 4, 16, 0
RATES = {"fine-tuned": 2e-4, "LoRA": 2e-3, "SHiRA": 2e-3}
ALPHAS = (1.0, 1.25, 1.5, 2.0)
TRAINED = (0.02, 0.1)  # densities that SHiRA is trained at
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
TIMES = (100, 400, 700)


@dataclass(frozen=True)
class Task:
    """What is learned: latents of the pictures, texts by prompt, and the noise schedule."""

    latents: Tensor
    texts: Tensor
    alphas: Tensor

    def noisy(self, times: Tensor, noise: Tensor, rows: Tensor) -> Tensor:
        """Return latents with noise added (DDPM, eq. 4)."""
        kept = self.alphas[times].view(-1, 1, 1, 1)
        return kept.sqrt() * self.latents[rows] + (1 - kept).sqrt() * noise


@torch.no_grad()
def load_task(pipe: Any) -> Task:
    """Encode the sample pictures and their captions."""
    paths = sorted(demo.IMAGES.glob("*.png"))
    pixels = [pipe.image_processor.preprocess(Image.open(p).convert("RGB")) for p in paths]
    latents = pipe.vae.encode(torch.cat(pixels)).latent_dist.mean * pipe.vae.config.scaling_factor
    prompts = [f"{demo.TRIGGER}, {path.with_suffix('.txt').read_text().strip()}" for path in paths]
    texts, _ = pipe.encode_prompt(prompts, "cpu", 1, False)
    return Task(latents, texts, pipe.scheduler.alphas_cumprod)


def train(unet: Any, weights: list[Tensor], task: Task, rate: float, steps: int) -> None:
    """Move the weights that are given, at a rate that falls to zero."""
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(task.latents), (BATCH,), generator=generator)
        times = torch.randint(len(task.alphas), (BATCH,), generator=generator)
        noise = torch.randn(task.latents[rows].shape, generator=generator)
        told = unet(task.noisy(times, noise, rows), times, task.texts[rows]).sample
        torch.nn.functional.mse_loss(told, noise).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


@torch.no_grad()
def predict(unet: Any, task: Task) -> Tensor:
    """Return predicted minus true noise, of all pictures at all TIMES."""
    rows = torch.arange(len(task.latents))
    noise = torch.randn(task.latents.shape, generator=torch.Generator().manual_seed(SEED + 1))
    told = []
    for time in TIMES:
        times = torch.full((len(rows),), time)
        told.append(unet(task.noisy(times, noise, rows), times, task.texts).sample - noise)
    return torch.cat(told)


def fine_tuned(folder: Path, steps: int) -> tuple[Any, Callable[[Choice], tuple[Adapter, Energy]]]:
    """Train all weights of the UNet; return the pipeline and what gives its adapter."""
    pipe = demo.open_base()
    weights = list(pipe.unet.requires_grad_(True).parameters())
    train(pipe.unet, weights, load_task(pipe), RATES["fine-tuned"], steps)
    pipe.unet.save_pretrained(folder / "tuned" / "unet")
    return pipe, lambda choice: extract(folder / "tuned", demo.BASE, choice)


def low_rank(folder: Path, steps: int) -> tuple[Any, Callable[[Choice], tuple[Adapter, Energy]]]:
    """Train a LoRA of the attention blocks, merge it; return the same."""
    pipe = demo.open_base()
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LAYERS)
    model = peft.get_peft_model(pipe.unet, config)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    train(model, weights, load_task(pipe), RATES["LoRA"], steps)
    state = peft.get_peft_model_state_dict(model).items()
    path = folder / "lora.safetensors"
    save_file({f"unet.{n.removeprefix('base_model.model.')}": v for n, v in state}, path)
    pipe.unet = model.merge_and_unload()
    return pipe, lambda choice: from_lora(path, demo.BASE, choice)


def sparse(density: float, steps: int) -> float:
    """Train SHiRA itself at a density; return its loss."""
    pipe = demo.open_base()
    task = load_task(pipe)
    with shira.training.finetune(pipe.unet, mask="wm", density=density) as run:
        train(pipe.unet, list(run.parameters()), task, RATES["SHiRA"], steps)
        return loss(predict(pipe.unet, task))


def loss(differences: Tensor) -> float:
    """Return the mean square."""
    return float(differences.square().mean())


def measure(
    tuned: Any, adapter_of: Callable[[Choice], tuple[Adapter, Energy]]
) -> tuple[dict[str, Any], list[list[Image.Image]]]:
    """Return the figures of all densities, and the rows of pictures (scope: global)."""
    base, task = demo.open_base(), load_task(tuned)
    wanted, plain = predict(tuned.unet, task), predict(base.unet, task)
    rows, pictures = [], [demo.draw(tuned)]
    for density, scope in ((d, s) for s in SCOPES for d in sorted(DENSITIES, reverse=True)):
        adapter, energy = adapter_of(Choice(density, scope=scope))
        with load_shira(base, adapter) as loaded:
            told = {}
            for alpha in ALPHAS:
                loaded.set_alpha(alpha)
                told[alpha] = predict(base.unet, task)
            loaded.set_alpha(1.0)
            if scope == "global" and density in SHOWN:
                pictures.append(demo.draw(base))
        missing = {a: float((t - wanted).norm() / (plain - wanted).norm()) for a, t in told.items()}
        figures = {"kept": energy.share, "missing": missing, "loss": loss(told[1.0])}
        rows.append({"density": density, "scope": scope, **figures})
    needed = {share: energy.needed(share) for share in SHARES}
    found = {"rows": rows, "needed": needed, "loss": loss(wanted), "base": loss(plain)}
    return found, [*pictures, demo.draw(base)]


def table(results: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the tables: a row for each density, columns for each scope."""
    for name, found in results.items():
        rows = {(row["density"], row["scope"]): row for row in found["rows"]}
        yield f"{name}: loss {found['loss']:.4f}, of the base {found['base']:.4f}"
        yield (
            "| density | " + " | ".join(f"{s}: kept | missing | best | loss" for s in SCOPES) + " |"
        )
        yield "|---:|" + "---:|" * 4 * len(SCOPES)
        for density in DENSITIES:
            cells = " | ".join(_cells(rows[density, scope]) for scope in SCOPES)
            yield f"| {density:.0%} | {cells} |"
        yield ", ".join(f"{s:.0%} needs {d:.1%}" for s, d in found["needed"].items())


def _cells(row: dict[str, Any]) -> str:
    missing = row["missing"]
    best = min(missing, key=missing.__getitem__)
    least = f"{missing[best]:.1%} at {best:g}"
    return f"{row['kept']:.1%} | {missing[1.0]:.1%} | {least} | {row['loss']:.4f}"


def main() -> None:
    """Train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="of training (default: 400)")
    steps = parser.parse_args().steps
    results, sheets = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name, build in (("fine-tuned", fine_tuned), ("LoRA", low_rank)):
            results[name], pictures = measure(*build(Path(folder), steps))
            labels = [name, *(f"its {density:.0%}" for density in SHOWN), "base"]
            rows = [
                demo.Row(label, drawn[:3], demo.OBJECTS[:3] if label == name else ())
                for label, drawn in zip(labels, pictures, strict=True)
            ]
            sheets.append(demo.sheet(rows, tile=88))
    width, height = sum(sheet.width for sheet in sheets), sheets[0].height
    both = Image.new("RGB", (width, height), "white")
    for number, sheet in enumerate(sheets):
        both.paste(sheet, (number * sheets[0].width, 0))
    both.save(DOCS / "images" / "converted.jpg", quality=88)
    trained = {density: sparse(density, steps) for density in TRAINED}
    save_results("conversion", {"steps": steps, "models": results, "trained": trained})
    print("\n".join(table(results)))
    print("SHiRA, trained:", ", ".join(f"{d:.0%}: loss {own:.4f}" for d, own in trained.items()))


if __name__ == "__main__":
    main()

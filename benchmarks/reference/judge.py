"""A small network that names object and style of a picture, and what it says of the base.

It is trained on drawings, half of them after the autoencoder's round trip. `judge.safetensors`
holds its weights and, in the metadata, the names of its classes.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from autoencoder import as_input, round_trip
from autoencoder import read as read_vae
from denoiser import TRAINED, draw, objects
from drawn import DRAWN, with_drawn
from loop import DEVICE, Trainer
from pictures import STYLES, load_pictures, splits
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import affine_grid, avg_pool2d, cross_entropy, grid_sample

WIDTHS = (32, 64, 96, 160, 160)
FILE = "judge.safetensors"


class Judge(nn.Module):
    """Names object and style of pictures; 0.8 M parameters."""

    def __init__(self, objects: list[str], styles: list[str]) -> None:
        super().__init__()
        self.objects, self.styles = objects, styles
        layers: list[nn.Module] = []
        for before, width in zip((3, *WIDTHS), WIDTHS, strict=False):
            for stride, entering in ((2, before), (1, width)):
                layers += [
                    nn.Conv2d(entering, width, 3, stride, 1),
                    nn.GroupNorm(8, width),
                    nn.ReLU(),
                ]
        self.layers = nn.Sequential(*layers)
        self.heads = nn.Linear(2 * WIDTHS[-1], len(objects) + len(styles))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of objects and of styles for pictures (n, 3, 128, 128) in -1..1."""
        features = self.layers(avg_pool2d(x, 2))
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
        objects, styles = self.heads(pooled).split([len(self.objects), len(self.styles)], 1)
        return objects, styles

    @torch.no_grad()
    def scores(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities of objects and of styles for uint8 pictures (n, 3, 128, 128)."""
        parts = [self(as_input(part)) for part in pictures.split(256)]
        objects, styles = (torch.cat(logits).softmax(1) for logits in zip(*parts, strict=True))
        return objects, styles


def read_judge(file: Path) -> Judge:
    """Return the judge of a file, in float32."""
    with safe_open(file, "pt") as stored:
        classes = stored.metadata()
        state = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118
    judge = Judge(json.loads(classes["objects"]), json.loads(classes["styles"]))
    judge.load_state_dict(state)
    return judge.eval()


def varied(x: Tensor) -> Tensor:
    """Turn, move, scale, tint and blur pictures (n, 3, h, w) in -1..1 a little, at random."""
    n, device = len(x), x.device
    angle, scale = (0.12 * (2 * torch.rand(2, n, device=device) - 1)).unbind()
    sine, cosine = angle.sin() * (1 + scale), angle.cos() * (1 + scale)
    move = (2 * torch.rand(2, n, device=device) - 1) * 0.1
    rows = [torch.stack(row, 1) for row in ((cosine, -sine, move[0]), (sine, cosine, move[1]))]
    turned = grid_sample(
        x, affine_grid(torch.stack(rows, 1), list(x.shape), False), "bilinear", "border", False
    )
    blurred = avg_pool2d(turned, 3, 1, 1, count_include_pad=False)
    soft = torch.rand(n, 1, 1, 1, device=device)
    tint = 1 + 0.15 * torch.randn(n, 3, 1, 1, device=device)
    lift = 0.1 * torch.randn(n, 3, 1, 1, device=device)
    noise = 0.1 * torch.rand(n, 1, 1, 1, device=device) * torch.randn_like(x)
    return (torch.lerp(turned, blurred, soft) * tint + lift + noise).clamp(-1, 1)


def train_judge(options: argparse.Namespace) -> None:
    """Train the judge on all objects that base or adapters may draw; write and measure it."""
    names, pictures = load_pictures(options.data)
    known = [*splits()["base"], *splits()["held_out"]]
    rows = [names.index(name) for name in known]
    real = with_drawn(pictures[rows].to(DEVICE))
    vae = read_vae(options.vae).to(DEVICE)
    back = torch.stack([returned(vae, part) for part in real.unbind(1)], 1)
    data = torch.stack([real, back])
    judge = Judge(known, [*STYLES, *DRAWN]).to(DEVICE)

    def loss() -> Tensor:
        index = tuple(torch.randint(n, (options.batch,), device=DEVICE) for n in data.shape[:3])
        objects, styles = judge(varied(as_input(data[index])))
        first = cross_entropy(objects.float(), index[1], label_smoothing=0.1)
        return first + cross_entropy(styles.float(), index[2], label_smoothing=0.1)

    def save() -> None:
        state = {k: v.half().contiguous().cpu() for k, v in judge.state_dict().items()}
        classes = {"objects": json.dumps(judge.objects), "styles": json.dumps(judge.styles)}
        save_file(state, options.out / FILE, metadata=classes)

    trainer = Trainer([judge], loss, options.lr, options.eager)
    trainer.run(options.until, save, options.max_steps)
    print(f"judge: {trainer.step} steps", flush=True)
    others = [row for row in range(len(names)) if row not in set(rows)]
    report_judge(options.out, real, back, with_drawn(pictures[others].to(DEVICE)))


def returned(vae: nn.Module, pictures: Tensor) -> Tensor:
    """Return uint8 pictures after the autoencoder's round trip."""
    return as_bytes(round_trip(vae, as_input(pictures), 0.0))


def as_bytes(x: Tensor) -> Tensor:
    """Return pictures in -1..1 as uint8."""
    return ((x + 1) * 127.5).round().byte()


def report_judge(folder: Path, real: Tensor, back: Tensor, others: Tensor) -> None:
    """Print how often the judge is right: its own limits, so those of every score."""
    judge = read_judge(folder / FILE).to(DEVICE)
    torch.manual_seed(1)
    moved = torch.stack([as_bytes(varied(as_input(part))) for part in real.unbind(1)], 1)
    for name, pictures in (("drawings", real), ("varied", moved), ("round trip", back)):
        objects, styles = right(judge, pictures)
        print(f"judge, {name}: object {objects:.2%} style {styles:.2%}", flush=True)
    print(f"judge, objects never seen: style {right(judge, others)[1]:.2%}", flush=True)


def right(judge: Judge, pictures: Tensor) -> tuple[float, float]:
    """Return the shares of uint8 pictures (objects, styles, 3, h, w) named rightly.

    Objects and styles are in the judge's own order.
    """
    count, kinds = pictures.shape[:2]
    objects, styles = (s.argmax(1).view(count, kinds) for s in judge.scores(pictures.flatten(0, 1)))
    wanted = torch.arange(count, device=objects.device).view(-1, 1)
    kind = torch.arange(kinds, device=objects.device)
    return (objects == wanted).float().mean().item(), (styles == kind).float().mean().item()


def score_base(options: argparse.Namespace) -> None:
    """Draw every object once in every trained style, ask the judge, write `score.json`."""
    judge = read_judge(options.out / FILE).to(DEVICE)
    wanted = [(name, style) for name in objects() for style in TRAINED]
    drawn = draw(options, [f"{name}, {style} style" for name, style in wanted])
    names, styles = (s.argmax(1).tolist() for s in judge.scores(as_bytes(drawn)))
    pairs = list(zip(names, styles, wanted, strict=True))
    hits = {
        "object": [judge.objects[name] == asked[0] for name, _, asked in pairs],
        "style": [judge.styles[style] == asked[1] for _, style, asked in pairs],
    }
    hits["both"] = [a and b for a, b in zip(hits["object"], hits["style"], strict=True)]
    shares = {kind: sum(values) / len(values) for kind, values in hits.items()}
    missed = [
        " in ".join(asked) for hit, (*_, asked) in zip(hits["both"], pairs, strict=True) if not hit
    ]
    for kind, share in shares.items():
        print(f"base, {kind}: {share:.2%} +- {margin(share, len(wanted)):.2%}", flush=True)
    text = json.dumps({"samples": len(wanted), **shares, "missed": missed}, indent=1)
    (options.out / "score.json").write_text(text, encoding="utf-8")


def margin(share: float, count: int) -> float:
    """Return half the 95 % interval of a share of `count` independent cases."""
    return 1.96 * math.sqrt(share * (1 - share) / count)

"""What the judge says of pictures, and how far they are from the true drawings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import paths  # noqa: F401
import torch
from autoencoder import as_input
from judge import Judge
from tasks import Asked
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, normalize
from world import World


@dataclass(frozen=True)
class Scores:
    """Per picture: is the object right, is the style right, distance to the true drawing.

    joint: the judge's probability of the object times that of the style. styles: its
    probability of every style, (n, 8).
    """

    object: Tensor
    style: Tensor
    distance: Tensor
    joint: Tensor
    styles: Tensor

    def record(self) -> dict[str, object]:
        """Return it for JSON: a digit per picture, distances in thousandths."""
        return {
            "object": _digits(self.object),
            "style": _digits(self.style),
            "distance": [round(1000 * value) for value in self.distance.tolist()],
            "joint": round(self.joint.mean().item(), 5),
        }


def scores(world: World, pictures: Tensor, wanted: Sequence[Asked]) -> Scores:
    """Judge uint8 pictures (n, 3, 128, 128)."""
    judge = world.judge
    objects, styles = judge.scores(pictures)
    rows = torch.tensor([judge.objects.index(a.object) for a in wanted], device=world.device)
    columns = torch.tensor([judge.styles.index(a.style) for a in wanted], device=world.device)
    joint = objects.gather(1, rows[:, None]) * styles.gather(1, columns[:, None])
    return Scores(
        object=objects.argmax(1) == rows,
        style=styles.argmax(1) == columns,
        distance=distance(judge, pictures, world.drawings(wanted)),
        joint=joint[:, 0],
        styles=styles,
    )


@torch.no_grad()
def distance(judge: Judge, pictures: Tensor, drawings: Tensor) -> Tensor:
    """Return the perceptual distance of uint8 pictures, (n,), in the manner of LPIPS.

    The squared difference of the judge's features, each place's normalised over channels, as a
    mean over places and layers: 0 for equal pictures, at most 2.
    """
    x, y = (avg_pool2d(as_input(each), 2) for each in (pictures, drawings))
    parts = []
    for layer in judge.layers:
        x, y = layer(x), layer(y)
        if isinstance(layer, nn.ReLU):
            apart = (normalize(x, dim=1) - normalize(y, dim=1)).square().sum(1)
            parts.append(apart.mean((1, 2)))
    return torch.stack(parts).mean(0)


def _digits(values: Tensor) -> str:
    return "".join("1" if value else "0" for value in values.tolist())

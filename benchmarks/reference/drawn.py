"""Styles that our own code draws from a picture on white: pure functions, uint8 to uint8.

Every function takes and returns uint8 (n, 3, 128, 128), on any device, in batches of any size. They
share three steps: the object's silhouette (what the white around it cannot reach), its contours
(thin ridges of the colour gradient, noise dropped), and a pen that draws contours 2-3 px wide.
Structure is bold on purpose: an autoencoder with latents of 8 x 8 px loses what is below 3 px.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, pad

WHITE = 0.97
TILE = 8


def colour(hexadecimal: str) -> Tensor:
    """Return a colour such as '1f4e9e' as (3, 1, 1) in 0..1."""
    return torch.tensor(list(bytes.fromhex(hexadecimal))).view(3, 1, 1) / 255


def blur(pictures: Tensor, sigma: float) -> Tensor:
    """Blur (n, c, h, w) with a Gaussian; the border repeats."""
    radius = int(2.5 * sigma + 0.5)
    weights = [math.exp(-(step**2) / (2 * sigma**2)) for step in range(-radius, radius + 1)]
    for axis, margin in ((-1, [radius, radius, 0, 0]), (-2, [0, 0, radius, radius])):
        size, wide = pictures.shape[axis], pad(pictures, margin, mode="replicate")
        pictures = torch.zeros_like(pictures)
        for start, weight in enumerate(weights):
            pictures.add_(wide.narrow(axis, start, size), alpha=weight / sum(weights))
    return pictures


def spread(seeds: Tensor, allowed: Tensor, rounds: int) -> Tensor:
    """Grow `seeds` over `allowed` (bool, (n, 1, h, w)) along rows and columns, to and fro."""
    reached = seeds & allowed
    for step in range(4 * rounds):
        axis, back = (-1, -2)[step % 2], step % 4 > 1
        a, b = (t.flip(axis) if back else t for t in (reached, allowed))
        place = torch.arange(1, a.shape[axis] + 1, device=a.device, dtype=torch.int16)
        place = place if axis == -1 else place.view(-1, 1)
        last_reached = (a * place).cummax(axis).values
        last_wall = (~b * place).cummax(axis).values
        grown = last_reached > last_wall
        reached = reached | (grown.flip(axis) if back else grown)
    return reached


def silhouette(pictures: Tensor) -> Tensor:
    """Return bool (n, 1, h, w): not joined to the border through white. pictures: 0..1."""
    white = pictures.amin(1, keepdim=True) > WHITE
    border = torch.zeros_like(white)
    border[..., 0, :] = border[..., -1, :] = border[..., 0] = border[..., -1] = True
    return ~spread(border, white, 3)


def contours(pictures: Tensor, least: float = 0.06) -> tuple[Tensor, Tensor]:
    """Return thin contours and the silhouette, both bool (n, 1, h, w).

    Canny's method over the four layers red, green, blue and silhouette, the strongest layer at each
    pixel; `least`: the gradient per pixel from which a contour begins (it goes on to half of that).
    """
    inside = silhouette(pictures)
    layers = blur(torch.cat([pictures, inside * 0.8], 1), 1.2)
    layers = pad(layers, [1] * 4, mode="replicate")
    across = (layers[..., 1:-1, 2:] - layers[..., 1:-1, :-2]) / 2
    down = (layers[..., 2:, 1:-1] - layers[..., :-2, 1:-1]) / 2
    strength, strongest = (across**2 + down**2).sqrt().max(1, keepdim=True)
    across, down = across.gather(1, strongest), down.gather(1, strongest)
    ridge = on_ridge(strength, across, down)
    sure = ridge & (strength > least)
    return spread_around(sure, ridge & (strength > least / 2)), inside


def on_ridge(strength: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Return where the gradient is strongest along its own direction."""
    angle = torch.atan2(down, across) * (4 / torch.pi)
    sector = angle.round().long() % 4
    near = pad(strength, [1] * 4)
    height, width = strength.shape[-2:]

    def shifted(dy: int, dx: int) -> Tensor:
        return near[..., 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    ridge = torch.zeros_like(strength, dtype=torch.bool)
    for number, (dy, dx) in enumerate([(0, 1), (1, 1), (1, 0), (1, -1)]):
        peak = (strength > shifted(dy, dx)) & (strength >= shifted(-dy, -dx))
        ridge |= peak & (sector == number)
    return ridge


def spread_around(seeds: Tensor, allowed: Tensor, rounds: int = 12) -> Tensor:
    """Grow `seeds` over `allowed` to all eight neighbours, `rounds` pixels far."""
    for _ in range(rounds):
        for axis, margin in ((-1, [1, 1, 0, 0]), (-2, [0, 0, 1, 1])):
            size, wide = seeds.shape[axis], pad(seeds, margin)
            seeds = wide.narrow(axis, 0, size) | seeds | wide.narrow(axis, 2, size)
        seeds = seeds & allowed
    return seeds


def pen(thin: Tensor, width: float) -> Tensor:
    """Draw thin contours about `width` px wide with soft edges, float (n, 1, h, w) in 0..1."""
    ink = blur(thin.float(), width / 2.4)
    return ((ink - 0.10) / 0.14).clamp(0, 1)


def saturated(pictures: Tensor, amount: float) -> Tensor:
    """Move colours away from their grey by the factor `amount`."""
    grey = pictures.mean(1, keepdim=True)
    return (grey + amount * (pictures - grey)).clamp(0, 1)


def lattice(pictures: Tensor, period: int) -> tuple[Tensor, Tensor]:
    """Return the row and the column of each pixel within its cell, (h, 1) and (w,)."""
    rows = torch.arange(pictures.shape[-2], device=pictures.device) % period
    columns = torch.arange(pictures.shape[-1], device=pictures.device) % period
    return rows.view(-1, 1), columns


def over(below: Tensor, above: Tensor, cover: Tensor | float) -> Tensor:
    """Lay `above` on `below` where `cover` (0..1) says."""
    return below + (above - below) * cover


def blueprint(pictures: Tensor) -> Tensor:
    """White line work on blue with a faint grid; no fills. pictures: 0..1."""
    thin, _ = contours(pictures)
    paper, faint, chalk = (colour(c).to(pictures) for c in ("1f4e9e", "3263ae", "f4f8ff"))
    rows, columns = lattice(pictures, 16)
    grid = ((rows == 8) | (columns == 8)).to(pictures.dtype)
    y, x = (torch.arange(n, device=pictures.device) for n in pictures.shape[-2:])
    uneven = 0.9 + 0.1 * torch.sin(y.view(-1, 1) * 0.31 + 2 * torch.sin(x * 0.23))
    return over(over(paper, faint, grid), chalk, pen(thin, 2.5) * uneven)


def tile_means(pictures: Tensor, share: Tensor) -> Tensor:
    """Return each tile's mean colour, weighted by `share` (n, 1, h, w), at every pixel of it."""
    weight = avg_pool2d(share, TILE)
    mean = avg_pool2d(pictures * share, TILE) / weight.clamp(min=1e-3)
    return interpolate(mean, scale_factor=TILE, mode="nearest")


def mosaic(pictures: Tensor) -> Tensor:
    """Tiles of 8 px with grout, cut in two along edges, on cream tiles. pictures: 0..1."""
    inside = silhouette(pictures).to(pictures.dtype)
    light = pictures.mean(1, keepdim=True)
    pale = inside * (light > tile_means(light, inside))
    dark = inside - pale
    cut = (tile_means(light, pale) - tile_means(light, dark)).abs() > 0.12
    halves = torch.where(pale > 0, tile_means(pictures, pale), tile_means(pictures, dark))
    tiles = torch.where(cut, halves, tile_means(pictures, inside))
    tiles = saturated(tiles, 1.6)
    most = tiles.amax(1, keepdim=True)
    tiles = tiles / most.clamp(min=1e-3) * (most * 5).round() / 5
    cream, grout, deep = (colour(c).to(pictures) for c in ("fbf0d6", "d8c8a6", "4a3f38"))
    page = over(cream, tiles * 0.92 + 0.06, inside) * glaze(pictures)
    rows, columns = lattice(pictures, TILE)
    joint = (rows == 0) | (columns == 0)
    return torch.where(joint, over(grout, deep, inside), page)


def glaze(pictures: Tensor) -> Tensor:
    """Return each tile's own brightness, (h, w) about 1, the same for every picture."""
    y, x = (torch.arange(n, device=pictures.device) // TILE for n in pictures.shape[-2:])
    return 0.96 + 0.03 * ((y.view(-1, 1) * 7 + x * 11 + y.view(-1, 1) * x * 3) % 5 - 2)


def riso(pictures: Tensor) -> Tensor:
    """Two inks on warm paper: coral, flat or in dots, and navy for dark parts and contours."""
    thin, inside = contours(pictures)
    weights = torch.tensor([0.15, 0.30, 0.05]).view(3, 1, 1).to(pictures)
    light = (pictures * weights).sum(1, keepdim=True) + pictures.amax(1, keepdim=True) / 2
    light = torch.where(inside, blur(light, 1.0), 1.0)
    paper, coral, navy = (colour(c).to(pictures) for c in ("f6efd9", "f2673f", "1c2350"))
    rows, columns = lattice(pictures, 8)
    dots = (3.1 - ((rows - 3.5) ** 2 + (columns - 3.5) ** 2).sqrt()).clamp(0, 1)
    tone = torch.where(light < 0.78, 1.0, torch.where(light < 0.95, dots, 0.0)) * inside
    page = over(paper, coral, tone)
    page = over(page, navy, ((0.43 - light) * 25).clamp(0, 1) * inside)
    return over(page, navy, pen(thin, 2.0))


def neon(pictures: Tensor) -> Tensor:
    """Contours that glow in the object's own colours on near-black violet. pictures: 0..1."""
    thin, _ = contours(pictures, 0.08)
    own = -max_pool2d(-pictures, 5, 1, 2)
    vivid = own - 0.9 * own.amin(1, keepdim=True)
    most = vivid.amax(1, keepdim=True)
    grey = colour("b9a8ff").to(pictures)
    lamp = over(grey, vivid / most.clamp(min=1e-3), (most / 0.25).clamp(0, 1))
    tube = pen(thin, 2.0)
    lit = lamp * tube
    glow = blur(lit, 2.0) * 0.6 + blur(lit, 6.0) * 0.8
    night = colour("120a24").to(pictures)
    core = over(lamp, torch.ones_like(lamp), tube * 0.25)
    return over(night + glow, core, tube)


def as_bytes(draw: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Wrap a style of floats in 0..1 as one of uint8, 64 pictures at a time."""

    def drawn(pictures: Tensor) -> Tensor:
        parts = [draw(part.float() / 255).clamp(0, 1) for part in pictures.split(64)]
        return (torch.cat(parts) * 255).round().to(torch.uint8)

    drawn.__doc__ = draw.__doc__
    return drawn


DRAWN: dict[str, Callable[[Tensor], Tensor]] = {
    style.__name__: as_bytes(style) for style in (blueprint, mosaic, riso, neon)
}


def with_drawn(pictures: Tensor) -> Tensor:
    """Add every drawn style, made from the first one, to pictures (objects, styles, 3, h, w)."""
    drawn = [style(pictures[:, 0]) for style in DRAWN.values()]
    return torch.cat([pictures, torch.stack(drawn, 1)], 1)

"""A run's losses and learning rate as one SVG, drawn in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

Points = Sequence[tuple[int, float]]
WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 56, 14, 30
DRAWN = 400  # points of a line: more than its pixels would show nothing more
EMPTY = '<p class="shira-quiet">The loss appears with the first steps.</p>'


def chart(losses: Points, rates: Points, held_out: Points, steps: int, smoothing: float) -> str:
    """Return the chart as SVG text; it holds numbers alone.

    losses, rates, held_out: (step, value). smoothing: 0 to below 1, the share of the mean so far
    that each next point keeps.
    """
    losses = [(step, value) for step, value in losses if math.isfinite(value)]
    if not losses:
        return EMPTY
    smooth = thinned(smoothed(losses, smoothing))
    low, high = limits([value for _, value in [*smooth, *held_out]])
    top_rate = max((value for _, value in rates), default=0.0) or 1.0
    end = max(steps, losses[-1][0])
    parts = [
        _grid(low, high, end),
        _line(thinned(rates), end, 0.0, top_rate * 1.05, "rate"),
        _line(thinned(losses), end, low, high, "raw") if smoothing else "",
        _line(smooth, end, low, high, "loss"),
        *(_dot(point, end, low, high) for point in held_out),
        _words(losses[-1], rates, top_rate),
    ]
    return (
        f'<svg class="shira-chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="loss {smooth[-1][1]:.4g} at step {smooth[-1][0]}">{"".join(parts)}</svg>'
    )


def smoothed(points: Points, share: float) -> list[tuple[int, float]]:
    """Return the running mean, corrected for its start as Adam's are."""
    mean, weight, found = 0.0, 0.0, []
    for step, value in points:
        mean = share * mean + (1 - share) * value
        weight = share * weight + (1 - share)
        found.append((step, mean / weight))
    return found


def thinned(points: Points) -> list[tuple[int, float]]:
    """Return at most DRAWN points, the last one among them."""
    every = max(1, math.ceil(len(points) / DRAWN))
    return list(points[::-1][::every][::-1])


def limits(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of the axis: all values with a margin."""
    low, high = min(values), max(values)
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return max(0.0, low - margin) if low >= 0 else low - margin, high + margin


def _x(step: int, end: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * step / max(1, end)


def _y(value: float, low: float, high: float) -> float:
    share = min(1.0, max(0.0, (value - low) / (high - low)))
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def _line(points: Points, end: int, low: float, high: float, kind: str) -> str:
    places = " ".join(f"{_x(s, end):.1f},{_y(v, low, high):.1f}" for s, v in points)
    return f'<polyline class="{kind}" points="{places}"/>'


def _dot(point: tuple[int, float], end: int, low: float, high: float) -> str:
    x, y = _x(point[0], end), _y(point[1], low, high)
    text = f"held-out pictures, step {point[0]}: {point[1]:.4g}"
    return f'<circle class="held" cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{text}</title></circle>'


def _grid(low: float, high: float, end: int) -> str:
    parts = []
    for number in range(5):
        value = low + (high - low) * number / 4
        y = _y(value, low, high)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="left" x="{LEFT - 6}" y="{y + 4:.1f}">{value:.3g}</text>')
        x = _x(round(end * number / 4), end)
        step = f"{round(end * number / 4):,}"
        parts.append(f'<text class="below" x="{x:.1f}" y="{HEIGHT - 10}">{step}</text>')
    return f"<g>{''.join(parts)}</g>"


def _words(last: tuple[int, float], rates: Points, top_rate: float) -> str:
    rate = f"{rates[-1][1]:.3g}" if rates else ""
    x = WIDTH - RIGHT + 6
    return (
        f'<text class="key-rate" x="{x}" y="{TOP + 12}">lr</text>'
        f'<text class="key-rate" x="{x}" y="{TOP + 26}">{rate}</text>'
    )

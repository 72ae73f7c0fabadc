"""One job as the page shows it: figures, chart, samples, log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..jobs import Job, Progress, progress
from . import images, words
from .chart import chart
from .queue import detail

SHOWN_SAMPLES = 12


@dataclass(frozen=True)
class Shown:
    """HTML of the parts."""

    head: str = ""
    chart: str = ""
    samples: str = ""
    log: str = ""


def stamp(job: Job | None) -> str:
    """Return what changes whenever something that is shown of a job does."""
    if job is None:
        return ""
    told = progress(job)
    counts = (
        told.step,
        told.measured,
        len(told.samples),
        len(told.validation),
        told.warnings,
        told.error,
    )
    return repr((job, *counts, told.log))


def look(job: Job | None, smoothing: float) -> Shown:
    """Return what is shown of a job, nothing without one."""
    if job is None:
        return Shown()
    told = progress(job)
    drawn = chart(told.losses, told.rates, told.validation, told.steps, smoothing)
    return Shown(_head(job, told), drawn, _samples(told), _log(told))


def status(jobs: Sequence[Job]) -> str:
    """Return the line above all tabs."""
    active = [
        f"{job.name}: {job.state}, {detail(job, progress(job))}" for job in jobs if job.active
    ]
    waiting = sum(job.state == "queued" for job in jobs)
    if waiting:
        active.append(f"{waiting} waiting")
    return words.note(" · ".join(active) or "Nothing trains.")


def _head(job: Job, told: Progress) -> str:
    figures: list[tuple[str, object]] = [
        ("state", job.state),
        ("step", f"{told.step:,} of {told.steps:,}" if told.steps else "—"),
    ]
    if told.losses:
        figures.append(("loss", f"{told.losses[-1][1]:.4g}"))
    if told.validation:
        figures.append(("held-out loss", f"{told.validation[-1][1]:.4g}"))
    if told.seconds_left is not None and job.active:
        figures.append(("left", words.duration(told.seconds_left)))
    if told.memory:
        figures.append(("GPU memory", words.size(told.memory)))
    if told.checkpoint is not None and job.state != "done":
        figures.append(("checkpoint at step", told.checkpoint))
    lines = [
        *(words.note(line) for line in dict.fromkeys(told.warnings)),
        words.note(told.error or "", "bad"),
    ]
    return f"<h3>{words.text(job.name)}</h3>{words.figures(figures)}{''.join(lines)}"


def _samples(told: Progress) -> str:
    figures = "".join(
        f'<figure><a href="{_src(sample.path)}" target="_blank"><img src="{_src(sample.path)}" '
        f'alt="samples at step {sample.step}" loading="lazy"></a>'
        f"<figcaption>step {sample.step:,}, alpha {_alphas(sample.alphas)}</figcaption></figure>"
        for sample in told.samples[::-1][:SHOWN_SAMPLES]
    )
    return f'<div class="shira-samples">{figures}</div>' if figures else ""


def _src(path: Path) -> str:
    return words.text(images.address("picture", path))


def _alphas(alphas: Sequence[float]) -> str:
    return ", ".join(f"{alpha:g}" for alpha in alphas)


def _log(told: Progress) -> str:
    return f"<pre class='log' tabindex='0'>{words.text(chr(10).join(told.log))}</pre>"

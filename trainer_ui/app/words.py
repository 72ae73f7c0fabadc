"""How the page says things: sizes, times, text that is not HTML, errors."""

from __future__ import annotations

import functools
import html
import time
from collections.abc import Callable, Iterable
from typing import Any

import gradio as gr

from shira_core.errors import FileExists, ShiraError

SECONDS_SHOWN = 12


def text(value: object) -> str:
    """Return anything as text inside of HTML: names of files are no elements."""
    return html.escape(str(value))


def size(count: float) -> str:
    """Return bytes for a person."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} bytes"


def duration(seconds: float) -> str:
    """Return a time that is left or was taken."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min"


def note(message: object, kind: str = "") -> str:
    """Return a line of the page. kind: "", "bad" or "good"."""
    return f'<p class="shira-note {kind}">{text(message)}</p>' if message else ""


def problem(error: Exception) -> str:
    """Return what an error says; a flag of the command line is a field of the page."""
    told = str(error).replace("give --", "fill in ")
    return told.partition(" or add --overwrite")[0] if isinstance(error, FileExists) else told


def under_way(bar: gr.Progress, doing: str, unit: str) -> Callable[[int, int], None]:
    """Return what tells the page how much of a work is done, of how much, and the time left."""
    start = time.monotonic()

    def tell(done: int, total: int) -> None:
        left = (time.monotonic() - start) * (total - done) / done if done else 0
        desc = f"{doing}, {duration(left)} left" if left else doing
        bar((done, total), desc=desc, unit=unit)

    return tell


def figures(pairs: Iterable[tuple[str, object]]) -> str:
    """Return figures with what they are below."""
    tiles = "".join(
        f"<div><b>{text(value)}</b><span>{text(name)}</span></div>" for name, value in pairs
    )
    return f'<div class="shira-figures">{tiles}</div>'


def table(rows: Iterable[tuple[object, object]]) -> str:
    """Return names and values in two columns."""
    cells = "".join(f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in rows)
    return f'<table class="shira-table">{cells}</table>'


def answered(act: Callable[..., Any]) -> Callable[..., Any]:
    """Return a handler of an event that shows an error of ours, or of a full disk, as a message."""

    @functools.wraps(act)
    def answer(*values: Any) -> Any:
        try:
            return act(*values)
        except (ShiraError, OSError) as error:
            raise gr.Error(
                text(problem(error)),
                duration=SECONDS_SHOWN,
                title="This cannot be",
                print_exception=False,
            ) from None

    return answer

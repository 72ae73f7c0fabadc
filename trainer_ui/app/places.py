"""What a person can choose from: folders of pictures, bases, folders of hosts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from shira_core.errors import InvalidValue

from .. import models
from ..engine.config import Config
from ..roots import Roots
from .images import KINDS
from .words import size

DEEP, MOST = 4, 300  # levels below a root, folders
ADAPTERS = "shira"  # what hosts call their folder of adapters

# What every system takes: no folders, not hidden, nothing that Windows refuses or drops.
NAME = re.compile(r'(?!\.)[^/\\:*?"<>|\x00-\x1f]*[^/\\:*?"<>|\x00-\x1f .]')
DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def dropdown(name: str, **options: Any) -> gr.Dropdown:
    """Return the component of a setting that is a path: a choice, or any path typed."""
    return gr.Dropdown(
        [],
        value="",
        allow_custom_value=True,
        label=name,
        info=Config.model_fields[name].description,
        elem_id=f"set-{name}",
        **options,
    )


def file_name(text: str) -> str:
    """Return a name of one file or folder, on any system; raises InvalidValue."""
    name = text.strip()
    if not NAME.fullmatch(name) or DEVICE.fullmatch(name):
        raise InvalidValue(f"{name!r:.80} is no name for a file: use letters and numbers")
    return name


def picture_folders(roots: Roots) -> list[tuple[str, str]]:
    """Return the folders below the roots that hold pictures, by the names that are shown."""
    found = [path for root in roots.folders for path in _with_pictures(root, DEEP)][:MOST]
    return [(roots.shown(path), str(path)) for path in dict.fromkeys(found)]


def bases(roots: Roots) -> list[tuple[str, str]]:
    """Return the bases below the roots."""
    return [
        (f"{roots.shown(each.path)} ({each.architecture}, {size(each.size)})", str(each.path))
        for each in models.bases(roots)
    ]


def host_folders(roots: Roots) -> list[tuple[str, str]]:
    """Return the folders below the roots that hosts read adapters from.

    The first root is the trainer's own, whatever it is called.
    """
    below = [root / name for root in roots.folders for name in (ADAPTERS, f"models/{ADAPTERS}")]
    found = [path for path in (*roots.folders[1:], *below) if path.name == ADAPTERS]
    return [(roots.shown(path), str(path)) for path in dict.fromkeys(found) if path.is_dir()]


def _with_pictures(folder: Path, deep: int) -> Iterator[Path]:
    """Yield folders with pictures; one with them is a whole, so none below it."""
    try:
        entries = sorted(os.scandir(folder), key=lambda each: each.name)
    except OSError:
        return
    if any(Path(each.name).suffix.lower() in KINDS for each in entries):
        yield folder
        return
    below = [e for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
    for each in below if deep else ():
        if not each.name.endswith(".run"):  # of a training run: its samples
            yield from _with_pictures(Path(each.path), deep - 1)

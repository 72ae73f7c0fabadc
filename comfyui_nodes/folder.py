"""The folders models/shira of ComfyUI, and those that extra_model_paths.yaml adds."""

from __future__ import annotations

import contextlib
from pathlib import Path

import folder_paths

from shira_core.library import SUFFIXES, Library

FOLDER = "shira"
LIBRARY = Library(lambda: [Path(each) for each in folder_paths.get_folder_paths(FOLDER)])


def register() -> None:
    """Tell ComfyUI of models/shira; folders from extra_model_paths.yaml stay."""
    known, home = folder_paths.folder_names_and_paths, Path(folder_paths.models_dir) / FOLDER
    places = list(known[FOLDER][0]) if FOLDER in known else []
    if str(home) not in map(str, places):
        places.append(str(home))
    known[FOLDER] = (places, set(SUFFIXES))  # a dict, or what some hosts have in its place
    with contextlib.suppress(OSError):  # a read-only installation lists what is there
        home.mkdir(parents=True, exist_ok=True)


def names() -> list[str]:
    """Return the names of all files that may be adapters, as ComfyUI lists them.

    Its page shows names in menus as HTML: those that could be read so are left out.
    """
    return [name for name in folder_paths.get_filename_list(FOLDER) if "<" not in name]

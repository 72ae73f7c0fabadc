"""Build the folder that is shared: the file, its card, pictures, notes and checksums."""

from __future__ import annotations

from pathlib import Path

from .about import About, Bundle


def build(
    file: Path, folder: Path, about: About, *, twin: bool = False, overwrite: bool = False
) -> Bundle:
    """Write a hub-ready folder, whole or not at all, and return what is in it. Needs no network.

    twin: with a copy named .safetensors. overwrite: replace a folder that this function made.
    Raises FileInvalid (file, pictures), FileExists, WriteFailed, InvalidValue (about), and
    MissingDependency where there are pictures and no Pillow.
    """
    raise NotImplementedError

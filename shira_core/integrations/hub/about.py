"""What a person says of an adapter when it is shared, and the folder that comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class About:
    """What the file does not say; an empty field leaves what its header says.

    licence: a hub's identifier ("apache-2.0", "creativeml-openrail-m") or any other name.
    base_model: the base on the hub, "owner/name". prompts: of the pictures, in their order;
    a picture without one may have it in a text file beside it. pictures: image files.
    repository: where it will be, "owner/name", for the commands in the card.
    """

    licence: str = ""
    base_model: str = ""
    description: str = ""
    author: str = ""
    prompts: tuple[str, ...] = ()
    pictures: tuple[Path, ...] = ()
    tags: tuple[str, ...] = ()
    repository: str = ""


@dataclass(frozen=True)
class Bundle:
    """A folder that is ready for a hub. files: what is uploaded, relative to it, sorted.

    left_out: what was private in the file's header and is not in the folder, one line each.
    """

    folder: Path
    files: tuple[Path, ...]
    left_out: tuple[str, ...] = ()

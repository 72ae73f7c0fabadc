"""Settings that fit a purpose, as files in `trainer_ui/presets`: a file and flags override them."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from .config import read_toml
from .errors import ConfigInvalid

FOLDER = Path(__file__).resolve().parents[1] / "presets"


def names() -> tuple[str, ...]:
    """Return the names of all presets."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def read(name: str) -> dict[str, Any]:
    """Return a preset's settings; raises ConfigInvalid when there is no such preset."""
    return read_toml(_path(name))


def purpose(name: str) -> str:
    """Return what a preset is for, its file's first line."""
    return _path(name).read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def _path(name: str) -> Path:
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1, cutoff=0.0)
        raise ConfigInvalid(
            f"there is no preset {name!r}: did you mean {close[0]}? There are {', '.join(names())}"
        )
    return FOLDER / f"{name}.toml"

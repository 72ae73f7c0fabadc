"""Makes `shira_core` of this checkout importable, wherever it was cloned to."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def find() -> None:
    """Import `shira_core` from beside this package; raises ImportError for one from elsewhere.

    The checkout's folder does not stay on sys.path, where its other folders would hide modules of
    the host; a package that was imported finds its parts by itself.
    """
    sys.path.insert(0, str(ROOT))
    try:
        found = importlib.import_module("shira_core")
    finally:
        sys.path.remove(str(ROOT))
    place = Path(str(found.__file__)).resolve().parent.parent
    if place != ROOT:
        raise ImportError(
            f"SHiRA is loaded from {place} and again from {ROOT}: keep one of them in custom_nodes"
        )

"""Values that are kept in a file: the page's settings outlive a browser that is closed."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shira_core.atomic import atomic_write


class Kept:
    """Values by name, as JSON in one file. Safe with several threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()

    def read(self) -> dict[str, Any]:
        """Return what was kept; nothing where there is no file or an unreadable one."""
        try:
            with self._lock:  # Windows replaces no file that is being read
                found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, values: Mapping[str, Any]) -> None:
        """Keep the values; raises WriteFailed."""
        text = json.dumps(dict(values), ensure_ascii=False, default=str)
        with self._lock, atomic_write(self._path, overwrite=True) as target:
            target.write_text(text, encoding="utf-8")

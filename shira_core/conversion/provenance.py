"""What a header says after a conversion: everything that is still true, and a line about it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..header import Header

KEY = "converted"


def converted(header: Header, line: str, **changes: Any) -> Header:
    """Return the header with changed fields and one more line of what was done, oldest first."""
    earlier = header.training.get(KEY, [])
    lines = [*earlier, line] if isinstance(earlier, list) else [line]
    return replace(header, **changes, training={**header.training, KEY: lines})

"""Scripts that the WebUI has loaded."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

ScriptClassData = namedtuple("ScriptClassData", ["script_class", "path", "basedir", "module"])
scripts_data: list[Any] = []
AlwaysVisible = object()


class Script:
    """What an extension's script derives from."""

"""The WebUI's global objects."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

cmd_opts = argparse.Namespace()
opts = SimpleNamespace()
sd_model: Any = None

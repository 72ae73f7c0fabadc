"""The stubs of the WebUI, importable as `modules`, for tests of `a1111_extension` in CI."""

from __future__ import annotations

import sys
from pathlib import Path

STUBS = str(Path(__file__).parent / "stubs" / "webui_api_stubs")

if STUBS not in sys.path:
    sys.path.append(STUBS)

import networks  # noqa: E402 - the path is needed first
from modules import (  # noqa: E402
    extra_networks,
    patches,
    processing,
    script_callbacks,
    sd_models,
    sd_samplers_common,
    shared,
)

__all__ = [
    "extra_networks",
    "networks",
    "patches",
    "processing",
    "script_callbacks",
    "sd_models",
    "sd_samplers_common",
    "shared",
]

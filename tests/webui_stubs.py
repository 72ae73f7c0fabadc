"""Makes the stubs of the WebUI importable as `modules`, for tests of `a1111_extension` in CI."""

from __future__ import annotations

import sys
from pathlib import Path

STUBS = str(Path(__file__).parent / "stubs" / "webui_api_stubs")

if STUBS not in sys.path:
    sys.path.append(STUBS)

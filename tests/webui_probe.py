"""A script for the tests in a real WebUI: GET /test/state tells what it has loaded."""

from __future__ import annotations

import sys
from typing import Any

from modules import script_callbacks, shared


def state() -> dict[str, Any]:
    """Return where our extension was loaded from, and what the model is.

    A1111 answers when the model is loaded; Forge loads it for the first picture.
    """
    model, ours = shared.sd_model, sys.modules.get("a1111_extension")
    return {"extension": getattr(ours, "__file__", None), "sd1": getattr(model, "is_sd1", False)}


def add_route(_demo: Any, app: Any) -> None:
    app.get("/test/state")(state)


script_callbacks.on_app_started(add_route)

"""What went wrong in a job, where people look for it: on the page and in the picture's infotext."""

from __future__ import annotations

from typing import Any

from modules import errors

from shira_core.errors import ShiraError

KEY = "SHiRA error"


def clear(p: Any) -> None:
    """Forget what went wrong before: jobs of one grid share their infotext."""
    p.extra_generation_params.pop(KEY, None)


def note(p: Any, error: BaseException) -> None:
    """Show an error of a job: on its page, in its infotext and in the log.

    p: the WebUI's processing object.
    """
    text = str(error) if isinstance(error, ShiraError) else f"{type(error).__name__}: {error}"
    line = " ".join(text.split())
    known = p.extra_generation_params.get(KEY, "")
    if line in known:  # both passes of a picture fail alike
        return
    p.extra_generation_params[KEY] = "; ".join(filter(None, (known, line)))
    p.comment(f"SHiRA: {line}")
    errors.report(f"SHiRA: {line}")

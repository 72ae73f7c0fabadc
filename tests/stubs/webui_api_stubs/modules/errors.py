"""What the WebUI prints of errors."""

from __future__ import annotations

reported: list[str] = []


def report(message: str, *, exc_info: bool = False) -> None:
    reported.append(message)


def display(e: Exception, task: str, *, full_traceback: bool = False) -> None:
    reported.append(f"{task}: {type(e).__name__}: {e}")

"""The process of a job: the engine, in a session of its own, so that it outlives who started it.

Nothing about it is stored: its command names the job's `config.toml`, and by that it is found
again, whatever happened between its start and now.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from ..engine.stop import NAME

MODULE = "trainer_ui.engine"
ROOT = Path(__file__).resolve().parents[2]

SIGNALS = sys.platform != "win32"  # there `terminate` ends a process at once
if sys.platform == "win32":
    # A console of its own that is not shown: it stays when ours is closed. Without any, the Python
    # that a virtual environment's python.exe starts would open a window.
    DETACHED: dict[str, Any] = {
        "creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
    }
else:
    DETACHED: dict[str, Any] = {"start_new_session": True}


def start(config: Path, log: Path, flags: Sequence[str]) -> psutil.Process:
    """Start to train as a file says; what is printed goes to `log`. Raises OSError."""
    with log.open("wb") as output:
        return psutil.Popen(
            [sys.executable, "-m", MODULE, "run", str(config), *flags],
            cwd=ROOT,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            **DETACHED,
        )


def find(config: Path) -> psutil.Process | None:
    """Return the process that trains as a file says, None when there is none."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []  # None where another user's may not be seen
        if MODULE in command and str(config) in command:
            return process
    return None


def over(process: psutil.Process) -> bool:
    """Tell whether a process has ended, and let the system forget it if it is our own."""
    try:
        process.wait(timeout=0)
    except psutil.TimeoutExpired:
        # one that is not ours stays a zombie where nobody asks for it
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    return True


def stop(process: psutil.Process, folder: Path, trains: bool) -> None:
    """Ask a process to stop after its step; before the first one, or asked twice, it ends at once.

    folder: of its run. trains: whether it is past its first step.
    Not by SIGINT: that is ignored until the first step where a shell started us with `&`.
    """
    file = folder / NAME
    if not SIGNALS and trains and not file.exists():
        file.touch()
        return
    try:
        process.terminate()
    except psutil.NoSuchProcess:
        return

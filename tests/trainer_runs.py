"""A short training run, and what several test files ask of one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A process that cannot open a connection, for systems without network namespaces.
NO_SOCKETS = """
import socket, sys
def refuse(*_):
    raise OSError("there is no network")
socket.socket.connect = socket.getaddrinfo = refuse
from shira_core.cli import main
sys.exit(main())
"""

STEPS = 12
SETTINGS: dict[str, object] = {
    "steps": STEPS,
    "batch_size": 2,
    "lr": 1e-2,
    "threads": 1,
    "checkpoint_every": 3,
    "sample_steps": 2,
    "sample_count": 1,
    "trigger": "box style",
}


def flags(settings: dict[str, object]) -> list[str]:
    """Return the settings as flags of the command line."""
    names = {name: name.replace("_", "-") for name in settings}
    return [
        f"--{names[name]}" if value is True else f"--{names[name]}={value}"
        for name, value in settings.items()
    ]


def events(folder: Path) -> list[dict[str, object]]:
    """Return the events of a run folder."""
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def start_without_network(arguments: list[str]) -> subprocess.Popen[str]:
    """Start `shira` in the checkout, in an empty network namespace where the system has them."""
    command = [sys.executable, "-c", NO_SOCKETS, *arguments]
    isolate = [shutil.which("unshare") or "unshare", "-rn"]
    if shutil.which("unshare") and subprocess.run([*isolate, "true"], check=False).returncode == 0:
        command = [*isolate, *command]
    return start(command)


def start(
    command: list[str], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a command in the checkout; its output is kept."""
    pipe, own = subprocess.PIPE, {**os.environ, **(environment or {})}
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env=own)


def wait_until(process: subprocess.Popen[str], there: Callable[[], bool]) -> None:
    """Return when it is so; the process must go on until then."""
    while not there():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)

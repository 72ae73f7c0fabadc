"""The trainer's process, in the checkout's own environment: the WebUI's packages never matter."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
COMMAND = f"python {ROOT / 'install.py'} trainer --only-install"
MISSING = "The trainer has its own environment, which is not there yet. Run this once:"
PREFIX = "shira trainer: "


class TrainerApp:
    """Starts the trainer when it is first asked for, on a free port of this machine.

    token: known to it and us alone. It ends when our end of its standard input does.
    """

    def __init__(self, root_path: str, folders: Sequence[Path]) -> None:
        self.token = secrets.token_urlsafe(24)
        self.port = 0
        self._root_path, self._folders = root_path, folders
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None
        self._lock = threading.Lock()

    def problem(self) -> str:
        """Start it if it does not go; say why it cannot, "" when it can."""
        with self._lock:
            if not PYTHON.is_file():
                return MISSING
            if self._process is not None and self._process.poll() is None:
                return ""
            failed = self._last_words() if self._process is not None else ""
            self._process = None
            if not failed:
                self._start()
            return failed

    def _start(self) -> None:
        self.port = _free_port()
        roots = [part for folder in self._folders for part in ("--root", str(folder))]
        own = {"SHIRA_TRAINER_TOKEN": self.token, "SHIRA_TRAINER_PATH": self._root_path}
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [str(PYTHON), "-m", "shira_core.cli", "trainer", "--port", str(self.port), *roots],
            cwd=ROOT,
            env={**environment, **own},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
        )

    def _last_words(self) -> str:
        assert self._said is not None
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        return f"The trainer has ended: {lines[-1] if lines else 'it said nothing'}"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])

"""What the tests in real hosts share: finding a host, its server's life and HTTP.

They run when the environment names a host's checkout: COMFYUI_DIR, WEBUI_DIR. Its Python is
COMFYUI_PYTHON, WEBUI_PYTHON, or that of a `venv` or `.venv` in the checkout. Everything that a host
writes goes to a temporary folder; it computes on the CPU and downloads nothing, so a WebUI must
have been started once before (it then has CLIP's tokenizer).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

Found = TypeVar("Found")
ROOT = Path(__file__).resolve().parent.parent
HERE = "127.0.0.1"
CLONE = "ComfyUI-SHiRA"  # this checkout among ComfyUI's node packs
START_SECONDS, DRAW_SECONDS, STOP_SECONDS = 300, 600, 20
LOG_LINES = 60
_OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "COMMANDLINE_ARGS")
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "no_proxy": HERE}
_PACKAGES = """
from importlib.metadata import distributions
print(*sorted(f"{each.metadata['Name']}=={each.version}" for each in distributions()), sep="\\n")
"""
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class HostFailed(AssertionError):
    """A host did not do what it was asked to; the message ends with its log."""


# ---- checkouts ----
@dataclass(frozen=True)
class Checkout:
    """A host's source tree, the Python that runs it, and that Python's packages at first."""

    folder: Path
    python: Path
    packages: list[str]


def installed(python: Path) -> list[str]:
    """Return name and version of each package that a Python has."""
    line = [str(python), "-I", "-c", _PACKAGES]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()


def needs(variable: str) -> pytest.MarkDecorator:
    """Skip a module's tests unless the variable names a checkout."""
    reason = f"{variable} does not name a checkout to run (see tests/hosts.py)"
    return pytest.mark.skipif(not os.environ.get(variable), reason=reason)


def checkout(folder_variable: str, python_variable: str) -> Checkout:
    """Return the checkout that the environment names."""
    folder = Path(os.environ[folder_variable]).absolute()
    inside = [folder / venv / "bin" / "python" for venv in ("venv", ".venv")]
    given = os.environ.get(python_variable)
    for python in [Path(given).absolute()] if given else inside:
        if python.exists():  # not resolved: a virtual environment's Python is a link
            return Checkout(folder, python, installed(python))
    pytest.fail(f"{folder} has no virtual environment: name its Python in {python_variable}")


# ---- servers ----
class Server:
    """A running host: requests with a time limit, and failures that show its log."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.url, self._process, self._log = f"http://{HERE}:{port}", process, log

    def log(self) -> str:
        """Return all that it has printed."""
        return self._log.read_text("utf-8", errors="replace")

    def fetch(self, path: str, payload: object = None, seconds: float = 30) -> bytes:
        """GET a path, or POST a payload as JSON to it; return the answer's body."""
        data = None if payload is None else json.dumps(payload).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json"}
        )
        try:
            with _DIRECT.open(request, timeout=seconds) as answer:
                return bytes(answer.read())
        except OSError as error:
            said = error.read().decode() if isinstance(error, urllib.error.HTTPError) else ""
            raise self.failure(f"{path}: {error} {said}") from error

    def ask(self, path: str, payload: object = None, seconds: float = 30) -> Any:
        """The same; return what the answer's JSON says."""
        return json.loads(self.fetch(path, payload, seconds))

    def wait(self, found: Callable[[], Found | None], seconds: float, what: str) -> Found:
        """Call `found` until it returns something; HostFailed after so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if (result := found()) is not None:
                return result
            if self._process.poll() is not None:
                raise self.failure(f"the server ended with code {self._process.returncode}")
            time.sleep(0.25)
        raise self.failure(f"no {what} after {seconds:.0f} seconds")

    def failure(self, what: str) -> HostFailed:
        """Return an error to raise, with the end of the log."""
        lines = self.log().splitlines()[-LOG_LINES:]
        return HostFailed("\n".join([what, "---- the server's log ends ----", *lines]))


@contextmanager
def serving(
    checkout: Checkout, arguments: Sequence[str], log: Path, ready: str, said: str = ""
) -> Iterator[Server]:
    """Start a host on a free port, wait until it answers at the path `ready`, end it at the end.

    arguments: what Python runs in the checkout's folder; `--port N` is added.
    said: what the log says before anything is asked; a WebUI with a page fails when it is earlier.
    """
    port = free_port()
    command = [str(checkout.python), *arguments, "--port", str(port)]
    environment = {n: value for n, value in os.environ.items() if n not in _OURS} | _OFFLINE
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=checkout.folder, env=environment, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        server = Server(process, port, log)
        server.wait(lambda: said in server.log() or None, START_SECONDS, f"log that says {said}")
        server.wait(lambda: _answers(server, ready), START_SECONDS, f"answer at {ready}")
        yield server
    finally:
        _end(process)


@contextmanager
def serving_comfyui(checkout: Checkout, base: Path) -> Iterator[Server]:
    """Start ComfyUI with `base` for its models, its node packs and all that it writes.

    This checkout and the probes of `comfyui_probe.py` are among the node packs.
    """
    nodes = base / "custom_nodes"
    nodes.mkdir(parents=True, exist_ok=True)
    (nodes / CLONE).symlink_to(ROOT)
    shutil.copy(Path(__file__).with_name("comfyui_probe.py"), nodes)
    folders = ("--base-directory", str(base), "--database-url", f"sqlite:///{base / 'user.db'}")
    start = ("main.py", "--cpu", "--listen", HERE, "--disable-auto-launch", *folders)
    with serving(checkout, start, base / "log.txt", "/system_stats") as server:
        yield server


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return int(probe.getsockname()[1])


def _answers(server: Server, path: str) -> bool | None:
    try:
        server.fetch(path)
    except HostFailed:
        return None
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_SECONDS)

"""What the tests in real hosts share: a server's life, HTTP, and the picture to compare with.

They run when the environment names a host's checkout: COMFYUI_DIR, WEBUI_DIR. Its Python is
COMFYUI_PYTHON, WEBUI_PYTHON, or that of a `venv` or `.venv` in the checkout. Everything that a host
writes goes to a temporary folder; it computes on the CPU and downloads nothing.

A host draws with the reference base in full size, diffusers with the compact one as it is shipped:
the pictures must be the same.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from adapters import random_adapter

import shira_core as shira
from shira_core import keymaps

Found = TypeVar("Found")
ROOT = Path(__file__).resolve().parent.parent
HERE = "127.0.0.1"
START_SECONDS, DRAW_SECONDS, STOP_SECONDS = 300, 600, 20
LOG_LINES = 60
MEAN, MOST = 0.6, 2  # grey levels; hosts cut off what diffusers rounds, so half is expected
VISIBLE = 8  # what an adapter must change at least, on average
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
    """A host's source tree and the Python that runs it."""

    folder: Path
    python: Path

    def packages(self) -> list[str]:
        """Return name and version of each installed package."""
        line = [self.python, "-I", "-c", _PACKAGES]
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
            return Checkout(folder, python)
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
    checkout: Checkout, arguments: Sequence[str], log: Path, ready: str
) -> Iterator[Server]:
    """Start a host on a free port, wait until it answers at the path `ready`, end it at the end.

    arguments: what Python runs in the checkout's folder; `--port N` is added.
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
        server.wait(lambda: _listens(port), START_SECONDS, "answer")
        server.wait(lambda: _answers(server, ready), START_SECONDS, f"answer at {ready}")
        yield server
    finally:
        _end(process)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool | None:
    with socket.socket() as probe:
        return True if probe.connect_ex((HERE, port)) == 0 else None


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


# ---- the reference base in full size ----
@dataclass(frozen=True)
class FullSize:
    """An adapter for the compact base, and checkpoints as large as SD1.5 without and with it."""

    style: Path
    plain: Path
    styled: Path


def write_full_size(folder: Path) -> FullSize:
    """Write the checkpoints (2.1 GB each) with the public commands, and the adapter."""
    files = FullSize(
        folder / "s.shira", folder / "plain.safetensors", folder / "styled.safetensors"
    )
    wide = folder / "wide.shira"
    random_style().save(files.style)
    _shira("reference", files.plain)
    _shira("reference", wide, "--adapter", files.style)
    _shira("bake", files.plain, files.styled, wide)
    return files


def random_style() -> shira.Adapter:
    """Return an adapter for the compact base that changes its pictures a lot: UNet and CLIP."""
    from trainer_ui.demo import open_base

    pipeline = open_base()
    modules = {"unet": pipeline.unet, "te1": pipeline.text_encoder}
    shapes = {
        source.name: tuple(weights[name].shape)
        for part, module in modules.items()
        for weights in [module.state_dict()]
        for name, source in keymaps.sources("sd15-compact", part, weights).items()
        if weights[name].ndim > 1 and "embedding" not in name
    }
    return random_adapter(shapes, 0, density=0.05, scale=0.05, architecture="sd15-compact")


def _shira(*arguments: object) -> None:
    command = [sys.executable, "-m", "shira_core.cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"shira {arguments[0]}: {done.stderr}"


# ---- pictures ----
@dataclass(frozen=True)
class Scene:
    """What a host and diffusers both draw.

    With four steps the timesteps are 999, 666, 333 and 0. Not every number of steps gives whole
    ones, and some hosts round those that are not.
    """

    prompt: str = "cat, noto style"
    negative: str = ""
    seed: int = 7
    steps: int = 4
    guidance: float = 3.0
    size: int = 128


SCENE = Scene()


def compact_picture(extra: float, style: Path | None = None, scene: Scene = SCENE) -> np.ndarray:
    """Draw with the compact base in diffusers; return uint8 (size, size, 3).

    extra: ComfyUI begins with noise of variance sigma^2 + 1, the WebUIs with sigma^2.
    style: an adapter to apply.
    """
    from diffusers import EulerDiscreteScheduler

    from shira_core.integrations.diffusers import load_shira
    from trainer_ui.demo import open_base

    pipeline = open_base()
    config = pipeline.scheduler.config
    pipeline.scheduler = EulerDiscreteScheduler.from_config(config, timestep_spacing="linspace")
    if style:
        load_shira(pipeline, style)
    sigma = float(pipeline.scheduler.init_noise_sigma)
    drawn = pipeline(
        scene.prompt,
        negative_prompt=scene.negative,
        latents=noise(scene) * (1 + extra / sigma**2) ** 0.5,
        num_inference_steps=scene.steps,
        guidance_scale=scene.guidance,
    )
    return np.asarray(drawn.images[0])


def noise(scene: Scene) -> torch.Tensor:
    """Return the noise that a host makes of the seed: float32 (1, 4, size / 8, size / 8)."""
    generator = torch.Generator().manual_seed(scene.seed)
    return torch.randn(1, 4, scene.size // 8, scene.size // 8, generator=generator)


def difference(a: np.ndarray, b: np.ndarray) -> Mapping[str, float]:
    """Return by how many grey levels two pictures differ: on average, and at most."""
    apart = np.abs(a.astype(int) - b.astype(int))
    return {"mean": float(apart.mean()), "most": float(apart.max())}


def check_same(drawn: np.ndarray, wanted: np.ndarray) -> None:
    """Fail unless two pictures differ by rounding only."""
    assert drawn.shape == wanted.shape
    apart = difference(drawn, wanted)
    assert apart["mean"] <= MEAN, apart
    assert apart["most"] <= MOST, apart

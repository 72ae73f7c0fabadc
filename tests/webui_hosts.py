"""A real WebUI for tests: which one it is, and its server with this checkout as an extension.

WEBUI_ARGS in the environment has more flags for it, such as --lowvram; WEBUI_OPTIONS has settings
of its page as JSON, such as {"fp8_storage": "Enable"}.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hosts
from full_size import SCENE
from hosts import Checkout, Server

CLONE = "sd-webui-shira"
START = (
    *("launch.py", "--api", "--server-name", hosts.HERE),
    *("--skip-prepare-environment", "--skip-version-check", "--no-download-sd-model"),
    *("--no-hashing", "--disable-console-progressbars"),
)
# Without --server-name, --nowebui listens on every address.
WITHOUT_PAGE = ("--nowebui",)
ON_CPU = {
    "a1111": ("--use-cpu", "all", "--no-half", "--opt-channelslast"),
    "forge": ("--always-cpu", "--all-in-fp32"),
    "reforge": ("--always-cpu", "--all-in-fp32"),
}
SETTINGS = {"show_progress_type": "Approx cheap"}  # the usual preview is drawn by a model
# Forge's API fails in a second pass that does not name these.
SECOND: dict[str, dict[str, Any]] = {
    "a1111": {},
    "forge": {
        "hr_additional_modules": ["Use same choices"],
        "hr_cfg": SCENE.guidance,
        "hr_distilled_cfg": 3.5,
    },
    "reforge": {"hr_cfg": SCENE.guidance},
}


def checkout() -> Checkout:
    """Return the WebUI that the environment names."""
    return hosts.checkout("WEBUI_DIR", "WEBUI_PYTHON")


def kind_of(folder: Path) -> str:
    """Return which WebUI a checkout is: "a1111", "forge" or "reforge"."""
    if not (folder / "modules_forge").is_dir():
        return "a1111"
    return "reforge" if (folder / "ldm_patched").is_dir() else "forge"


def flags(kind: str) -> list[str]:
    """Return how a WebUI computes; --no-half-vae in WEBUI_ARGS takes the place of --no-half."""
    own = os.environ.get("WEBUI_ARGS", "").split()
    left_out = "--no-half" if "--no-half-vae" in own else ""
    return [*(flag for flag in ON_CPU[kind] if flag != left_out), *own]


@contextmanager
def serving(
    found: Checkout,
    data: Path,
    checkpoints: Path,
    more: Sequence[str] = WITHOUT_PAGE,
    probes: Sequence[str] = (),
) -> Iterator[Server]:
    """Start a WebUI on the CPU; `data` is the folder of all that it writes.

    more: further arguments; without --nowebui it has its page, too.
    probes: scripts beside this file that it runs.
    """
    extensions = data / "extensions"
    extensions.mkdir(parents=True, exist_ok=True)
    (extensions / CLONE).symlink_to(hosts.ROOT)
    settings = SETTINGS | json.loads(os.environ.get("WEBUI_OPTIONS", "{}"))
    (data / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    for probe in probes:
        scripts = extensions / "probe" / "scripts"
        scripts.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).with_name(probe), scripts)
    # Forge serves scripts of its own page only from the folder of its data.
    allowed = ("--gradio-allowed-path", str(found.folder))
    folders = ("--data-dir", str(data), "--ckpt-dir", str(checkpoints), *allowed)
    start = (*START, *flags(kind_of(found.folder)), *folders, *more)
    alone = WITHOUT_PAGE[0] in more
    ready, said = ("/sdapi/v1/options", "") if alone else ("/internal/ping", "Startup time")
    with hosts.serving(found, start, data / "log.txt", ready, said=said) as server:
        yield server


def use(server: Server, checkpoint: Path) -> None:
    """Have a WebUI with `webui_probe.py` load a checkpoint; A1111 must have loaded its first."""
    server.ask("/test/state", seconds=hosts.START_SECONDS)
    server.ask("/sdapi/v1/options", {"sd_model_checkpoint": checkpoint.name}, hosts.START_SECONDS)
    chosen = server.ask("/sdapi/v1/options")["sd_model_checkpoint"]
    if chosen != checkpoint.name:
        raise server.failure(f"{chosen} is in use instead of {checkpoint.name}")

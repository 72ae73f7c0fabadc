"""The reference base and our clone in a real WebUI; `WEBUI_DIR=... pytest` (see hosts.py)."""

from __future__ import annotations

import base64
import io
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hosts
import numpy as np
import pytest
import webui_hosts
from full_size import SCENE, VISIBLE, FullSize, check_same, compact_picture, difference
from hosts import Server
from PIL import Image
from webui_hosts import CLONE

pytestmark = hosts.needs("WEBUI_DIR")
EXTRA = 0.0  # variance of the first noise beyond sigma^2


@pytest.fixture(scope="module")
def checkout() -> hosts.Checkout:
    return webui_hosts.checkout()


@pytest.fixture(scope="module")
def webui(
    checkout: hosts.Checkout,
    full_size: FullSize,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    data, checkpoints = tmp_path_factory.mktemp("webui"), full_size.plain.parent
    with webui_hosts.serving(checkout, data, checkpoints, probes=["webui_probe.py"]) as server:
        yield server


def draw(server: Server, checkpoint: Path) -> np.ndarray:
    """Draw the scene with a checkpoint; return uint8 (size, size, 3)."""
    webui_hosts.use(server, checkpoint)
    what = {"prompt": SCENE.prompt, "negative_prompt": SCENE.negative, "seed": SCENE.seed}
    how = {"steps": SCENE.steps, "cfg_scale": SCENE.guidance, "sampler_name": "Euler"}
    size = {"width": SCENE.size, "height": SCENE.size}
    answer = server.ask("/sdapi/v1/txt2img", {**what, **how, **size}, hosts.DRAW_SECONDS)
    picture = Image.open(io.BytesIO(base64.b64decode(answer["images"][0])))
    return np.asarray(picture.convert("RGB"))


def test_a_clone_in_extensions_loads_and_adds_no_package(
    webui: Server, checkout: hosts.Checkout
) -> None:
    loaded = webui.ask("/test/state", seconds=hosts.START_SECONDS)["extension"]
    assert f"extensions/{CLONE}/a1111_extension" in str(loaded), webui.log()
    assert "Error loading script: shira" not in webui.log(), webui.log()
    assert hosts.installed(checkout.python) == checkout.packages


def test_install_at_a_webui_s_start_adds_no_package(checkout: hosts.Checkout) -> None:
    subprocess.run([checkout.python, hosts.ROOT / "install.py"], cwd=checkout.folder, check=True)
    assert hosts.installed(checkout.python) == checkout.packages


def test_the_reference_base_is_sd1_and_draws_as_the_compact_model(
    webui: Server, full_size: FullSize
) -> None:
    drawn = draw(webui, full_size.plain)
    assert webui.ask("/test/state")["sd1"] is True
    check_same(drawn, compact_picture(EXTRA))


def test_a_widened_adapter_baked_in_draws_as_the_compact_one(
    webui: Server, full_size: FullSize
) -> None:
    drawn = draw(webui, full_size.styled)
    check_same(drawn, compact_picture(EXTRA, full_size.compact))
    plain = compact_picture(EXTRA)
    assert difference(drawn, plain)["mean"] > VISIBLE, "the adapter has no effect"

"""The reference base and our clone in a real ComfyUI; `COMFYUI_DIR=... pytest` (see hosts.py)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import hosts
import numpy as np
import pytest
from full_size import SCENE, VISIBLE, FullSize, check_same, compact_picture, difference
from hosts import Server
from PIL import Image

pytestmark = hosts.needs("COMFYUI_DIR")
EXTRA = 1.0  # variance of the first noise beyond sigma^2


@pytest.fixture(scope="module")
def checkout() -> hosts.Checkout:
    return hosts.checkout("COMFYUI_DIR", "COMFYUI_PYTHON")


@pytest.fixture(scope="module")
def comfyui(
    checkout: hosts.Checkout,
    full_size: FullSize,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("comfyui")
    models = base / "models" / "checkpoints"
    models.mkdir(parents=True)
    for checkpoint in (full_size.plain, full_size.styled):
        (models / checkpoint.name).symlink_to(checkpoint)
    with hosts.serving_comfyui(checkout, base) as server:
        yield server


def workflow(checkpoint: str) -> dict[str, Any]:
    """Return a graph that draws the scene and tells the model's class."""
    size, seed = {"width": SCENE.size, "height": SCENE.size}, {"seed": SCENE.seed}
    how = {"steps": SCENE.steps, "cfg": SCENE.guidance, "sampler_name": "euler"}
    sampling = {**seed, **how, "scheduler": "normal", "denoise": 1.0, "model": ["model", 0]}
    between = {"positive": ["yes", 0], "negative": ["no", 0], "latent_image": ["empty", 0]}
    nodes = {
        "model": ("CheckpointLoaderSimple", {"ckpt_name": checkpoint}),
        "class": ("TestModelClass", {"model": ["model", 0]}),
        "yes": ("CLIPTextEncode", {"clip": ["model", 1], "text": SCENE.prompt}),
        "no": ("CLIPTextEncode", {"clip": ["model", 1], "text": SCENE.negative}),
        "empty": ("EmptyLatentImage", {**size, "batch_size": 1}),
        "latent": ("KSampler", {**sampling, **between}),
        "picture": ("VAEDecode", {"samples": ["latent", 0], "vae": ["model", 2]}),
        "saved": ("SaveImage", {"images": ["picture", 0], "filename_prefix": "scene"}),
    }
    return {name: {"class_type": kind, "inputs": given} for name, (kind, given) in nodes.items()}


def run(server: Server, graph: dict[str, Any]) -> dict[str, Any]:
    """Queue a graph, wait for its end and return what its nodes said, by their names."""
    number = server.ask("/prompt", {"prompt": graph})["prompt_id"]
    done = server.wait(
        lambda: server.ask(f"/history/{number}").get(number), hosts.DRAW_SECONDS, "picture"
    )
    if done["status"]["status_str"] != "success":
        raise server.failure(f"the graph failed: {done['status']['messages'][-1]}")
    outputs: dict[str, Any] = done["outputs"]
    return outputs


def picture(server: Server, outputs: dict[str, Any]) -> np.ndarray:
    """Return the saved picture, uint8 (size, size, 3)."""
    where = urlencode(outputs["saved"]["images"][0])
    return np.asarray(Image.open(io.BytesIO(server.fetch(f"/view?{where}"))).convert("RGB"))


def test_a_clone_in_custom_nodes_loads_and_adds_no_package(
    comfyui: Server, checkout: hosts.Checkout
) -> None:
    log = comfyui.log()
    assert f"custom_nodes/{hosts.CLONE}" in log, log
    assert "IMPORT FAILED" not in log, log
    assert "Traceback" not in log, log
    assert hosts.installed(checkout.python) == checkout.packages


def test_the_reference_base_is_sd15_and_draws_as_the_compact_model(
    comfyui: Server, full_size: FullSize
) -> None:
    outputs = run(comfyui, workflow(full_size.plain.name))
    assert outputs["class"]["model_class"] == ["SD15"]
    check_same(picture(comfyui, outputs), compact_picture(EXTRA))


def test_a_widened_adapter_baked_in_draws_as_the_compact_one(
    comfyui: Server, full_size: FullSize
) -> None:
    drawn = picture(comfyui, run(comfyui, workflow(full_size.styled.name)))
    check_same(drawn, compact_picture(EXTRA, full_size.compact))
    plain = compact_picture(EXTRA)
    assert difference(drawn, plain)["mean"] > VISIBLE, "the adapter has no effect"

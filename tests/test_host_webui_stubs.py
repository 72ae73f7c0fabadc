"""The stubs against a real WebUI's source: `WEBUI_DIR=... pytest` (see hosts.py); no start."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import hosts
import pytest
import webui_hosts
from webui_stubs import STUBS

pytestmark = hosts.needs("WEBUI_DIR")
# Made for the tests: it replaces the work of a whole WebUI.
OURS = {"ModelPatcher.patch_model"}
# What we rely on beside functions: names in the host's files.
NAMES = (
    ("modules/processing.py", "refiner_checkpoint_info"),
    ("modules/processing.py", "hr_extra_network_data"),
    ("modules/processing.py", "process_images_inner(p)"),
    ("modules/processing.py", "extra_networks.activate("),
    ("modules/sd_samplers_common.py", "cfg_denoiser.step / cfg_denoiser.total_steps"),
    ("modules/script_callbacks.py", "self.denoiser = denoiser"),
)
ONLY_A1111 = (
    ("modules/sd_models.py", "        load_model_weights("),
    ("modules/sd_models.py", ".fp16_weight"),
    ("modules/sd_models.py", ".fp16_bias"),
    ("modules/sd_samplers_common.py", "reload_model_weights(info="),
    ("extensions-builtin/Lora/networks.py", "network_weights_backup"),
    ("extensions-builtin/Lora/networks.py", "network_bias_backup"),
    ("extensions-builtin/Lora/networks.py", "network_current_names"),
    ("extensions-builtin/Lora/networks.py", "network_layer_name"),
)
FORKS = (("modules/processing.py", "forge_objects_after_applying_lora.shallow_copy()"),)
ONLY = {
    "a1111": ONLY_A1111,
    "forge": (
        *FORKS,
        ("backend/patcher/lora.py", "extra_weight_calculators[patch_type](weight, strength, v)"),
    ),
    "reforge": (
        *FORKS,
        ("ldm_patched/modules/lora.py", "isinstance(v, weight_adapter.WeightAdapterBase)"),
    ),
}


def folder() -> Path:
    return webui_hosts.checkout().folder


def kind() -> str:
    return webui_hosts.kind_of(folder())


def functions(path: Path) -> dict[str, list[str]]:
    """Return the parameters of a file's functions and methods."""
    return dict(_functions(ast.parse(path.read_text("utf-8")).body, ""))


def _functions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, list[str]]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _functions(node.body, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            given = node.args
            named = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            stars = [each.arg for each in (given.vararg, given.kwarg) if each]
            yield prefix + node.name, [*named, *stars]


def stub_files() -> list[str]:
    paths = (path.relative_to(STUBS).as_posix() for path in Path(STUBS).rglob("*.py"))
    return sorted(path for path in paths if "/" in path and not path.endswith("__init__.py"))


@pytest.mark.parametrize("name", stub_files())
def test_a_stub_has_the_host_s_signatures(name: str) -> None:
    real = folder() / name
    if not real.exists():
        assert name.startswith(("backend", "ldm_patched")), "only the forks' modules may lack"
        return
    ours, theirs = functions(Path(STUBS) / name), functions(real)
    public = {key for key in ours if not key.split(".")[-1].startswith("_")} - OURS
    if name.startswith("modules/sd_models") and kind() == "forge":
        public = set()  # it keeps these functions for others and does nothing in them
    assert {key: ours[key] for key in public} == {key: theirs.get(key) for key in public}


def test_the_host_has_what_we_rely_on() -> None:
    wanted = (*NAMES, *ONLY[kind()])
    missing = [
        (path, text) for path, text in wanted if text not in (folder() / path).read_text("utf-8")
    ]
    assert missing == []

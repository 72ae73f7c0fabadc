"""The root shims, loaded as the hosts load them, from a clone with another name."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STUBS = ROOT / "tests" / "stubs"
COMFYUI = """
import importlib.util, sys
sys.path.insert(0, sys.argv[2] + "/comfyui_api_stubs")  # the host's modules
import folder_paths
folder_paths.models_dir = sys.argv[1] + "/models"
folder_paths.folder_names_and_paths["checkpoints"] = ([], set())
spec = importlib.util.spec_from_file_location("/custom_nodes/clone", sys.argv[1] + "/__init__.py",
                                              submodule_search_locations=[sys.argv[1]])
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
assert set(module.NODE_CLASS_MAPPINGS) == set(module.NODE_DISPLAY_NAME_MAPPINGS)
assert sys.modules["shira_core"].__file__.startswith(sys.argv[1])
assert sys.argv[1] not in sys.path
assert len(module.NODE_CLASS_MAPPINGS) == 8
for node in module.NODE_CLASS_MAPPINGS.values():
    assert callable(getattr(node, node.FUNCTION)) and node.CATEGORY == "SHiRA"
    assert set(node.INPUT_TYPES()) <= {"required", "optional"} and len(node.RETURN_TYPES) > 0
assert module.__file__.startswith(sys.argv[1])
"""
WEBUI = """
import importlib.util, sys
sys.path[:0] = [sys.argv[1], sys.argv[2] + "/webui_api_stubs"]
from modules import script_callbacks
spec = importlib.util.spec_from_file_location("shira.py", sys.argv[1] + "/scripts/shira.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert sys.modules["a1111_extension"].__file__.startswith(sys.argv[1])
assert [module.Script.__name__] == ["Script"]
assert {"app_started", "before_ui", "ui_settings", "ui_tabs"} <= set(script_callbacks.registered)
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "ComfyUI-some.name"
    names = ("__init__.py", "scripts", "shira_core", "comfyui_nodes", "a1111_extension")
    folder.mkdir()
    for name in names:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    return folder


@pytest.mark.parametrize("host", [COMFYUI, WEBUI], ids=["comfyui", "webui"])
def test_the_entry_of_a_host_loads(clone: Path, host: str) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", host, str(clone), str(STUBS)],
        cwd=clone.parent,  # the stubs' models lie in the current folder
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr

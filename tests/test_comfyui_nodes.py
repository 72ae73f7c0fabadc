"""The node pack in the stubs of ComfyUI's API; `test_host_comfyui_nodes.py` has the real host."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hosts import ROOT

STUBS = Path(__file__).parent / "stubs" / "comfyui_api_stubs"
SCENARIOS = Path(__file__).with_name("comfyui_scenarios.py")
FLAGS = (
    "loading",
    "kinds_of_weights",
    "stacks",
    "with_others",
    "giving_back",
    "timing",
    "hooks",
    "encoders",
)


def facts_of(python: str, host: Path, folder: Path) -> dict[str, Any]:
    """Run the scenarios in a host and return its facts."""
    command = [python, str(SCENARIOS), str(host), str(ROOT), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=host)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check_flags(facts: dict[str, Any], scenario: str) -> None:
    assert facts[scenario]
    assert [name for name, fact in facts[scenario].items() if fact is not True] == []


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return facts_of(sys.executable, STUBS, tmp_path_factory.mktemp("host"))


@pytest.mark.parametrize("scenario", FLAGS)
def test_a_scenario_holds(facts: dict[str, Any], scenario: str) -> None:
    check_flags(facts, scenario)


def test_files(facts: dict[str, Any]) -> None:
    check_files(facts["files"])


def check_files(found: dict[str, Any]) -> None:
    """What nodes that read and write files must do, in any host."""
    assert found["saved"]
    assert found["not saved twice"].startswith("FileExists:")
    told = re.fullmatch(
        r"wrote fewer.shira: ([\d,]+) entries, (\d+)% of the energy of the change", found["told"]
    )
    assert told, found["told"]
    assert 0 < int(told[2]) < 100
    assert found["nothing to save"].startswith("InvalidValue: the two models are the same")
    assert found["names outside"].startswith("FileInvalid:")
    assert "trigger words: a, b" in found["info"][0]
    assert found["info"][1] == "a, b"
    assert {"again.shira", "first.shira", "second.shira"} <= set(found["choices"])
    assert all(found["refused"]), found["refused"]
    assert all(found["numbers"]), found["numbers"]
    for name in ("accepted", "blocks", "replaced", "the base is clean"):
        assert found[name], name


def test_an_adapter_that_does_not_fit_is_refused(facts: dict[str, Any]) -> None:
    errors = facts["wrong_model"]["errors"]
    assert errors["other"].startswith("WeightMissing:")
    assert errors["wide"].startswith("ShapeMismatch:")
    assert errors["vae"].startswith("InvalidValue:")
    assert facts["wrong_model"]["the base is clean"]


def test_a_sweep_gives_a_model_for_each_alpha(facts: dict[str, Any]) -> None:
    found = facts["sweeping"]
    assert found["pictures"]
    assert found["refused"]
    assert found["alphas"] == [0.0, 0.5, 1.0]
    assert found["clips"] == [None] * 3

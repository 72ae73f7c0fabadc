"""The script: rows of the accordion in jobs, both passes, and what the infotext says of them."""

from __future__ import annotations

import copy
import importlib
import sys
from types import ModuleType
from typing import Any

import pytest
from webui_jobs import FIRST, SECOND, Setting, jobs_setting  # noqa: F401 - a fixture
from webui_model import check_bits, check_equal, expected
from webui_stubs import processing, script_callbacks

from a1111_extension import problems

ROW = {"name": "first.shira", "alpha": 0.75}


class Scripts:
    """What the WebUI runs of a job's scripts: ours, with these arguments."""

    def __init__(self, script: Any, values: tuple[Any, ...]) -> None:
        self.script, self.values = script, values

    def before_process_batch(self, p: Any, **given: Any) -> None:
        self.script.before_process_batch(p, *self.values, **given)

    def process_batch(self, p: Any, **given: Any) -> None:
        self.script.process_batch(p, *self.values, **given)


@pytest.fixture
def module(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script's module; the page that it draws needs a package that CI does not have."""
    if importlib.util.find_spec("gradio") is None:
        monkeypatch.setitem(sys.modules, "gradio", ModuleType("gradio"))
    return importlib.import_module("a1111_extension.script")


def scripts(module: Any, *values: Any) -> Scripts:
    return Scripts(module.Script(), values)


def test_rows_are_worn_in_both_passes_and_told_once(
    setting: Setting,
    module: Any,
) -> None:
    given = {"hr_prompt": f"dog {SECOND}", "scripts": scripts(module, [ROW])}
    p = setting.draw(f"cat {SECOND}", **given)
    wanted = expected(setting.base, setting.stack(SECOND + FIRST))
    check_equal(setting.seen[0], wanted)
    check_equal(setting.seen[-1], wanted)
    said = p.extra_generation_params
    assert said["SHiRA"] == FIRST
    assert [each.split(": ")[0] for each in said["SHiRA hashes"].split(", ")] == [
        "sub/second",
        "first",
    ]
    assert problems.KEY not in said


def test_a_job_without_rows_says_nothing(setting: Setting, module: Any) -> None:
    p = setting.draw("cat", scripts=scripts(module, "[]"))
    assert p.extra_generation_params == {}
    check_bits(setting.seen[0], setting.base)


def test_jobs_that_share_their_infotext_do_not_tell_of_each_other(
    setting: Setting, module: Any
) -> None:
    p = setting.draw("cat", scripts=scripts(module, [ROW]))
    cell = copy.copy(p)
    cell.scripts = scripts(module, "[]")
    processing.process_images_inner(cell)
    assert cell.extra_generation_params == {}


@pytest.mark.parametrize("rows", ["[{", [{"alpha": 1}], [{**ROW, "alpha": "x"}]])
def test_rows_that_cannot_be_read_are_told(
    setting: Setting,
    module: Any,
    rows: Any,
) -> None:
    p = setting.draw("cat", scripts=scripts(module, rows))
    assert "\n" not in p.extra_generation_params[problems.KEY]
    check_bits(setting.seen[0], setting.base)


def test_it_is_always_there(module: Any) -> None:
    script = module.Script()
    assert script.title() == "SHiRA"
    assert script.show(False) is script.show(True)


def test_the_extension_is_added_each_time_that_scripts_are_loaded(
    setting: Setting,
    module: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module.ui, "register", lambda: None)
    for _ in range(2):
        script_callbacks.registered.clear()
        module.register()
    assert len(script_callbacks.registered["before_ui"]) == 1

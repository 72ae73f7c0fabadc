"""How long a run takes: known from steps on noise, timed on request, before anything is trained."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio")
pytest.importorskip("diffusers")
from trainer_runs import ROOT

from shira_core.cli import main
from trainer_ui.app import fields, measured
from trainer_ui.app.desk import Desk, open_desk
from trainer_ui.app.form import Form
from trainer_ui.app.model_tab import ModelTab
from trainer_ui.engine import events, timing
from trainer_ui.engine.config import dump
from trainer_ui.jobs import JobRefused

STEPS = 4000
UNKNOWN = "not timed yet"
PATHS = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def desk(tmp_path: Path, tiny_base: Path) -> Iterator[Desk]:
    home = tmp_path / "home"
    shutil.copytree(tiny_base, home / "base")
    shutil.copytree(ROOT / "assets" / "samples" / "contrast", home / "pictures")
    found = open_desk([home])
    yield found
    found.close()


def settings(desk: Desk, **more: object) -> dict[str, object]:
    given = {"base": str(desk.home / "base"), "images": str(desk.home / "pictures")}
    given |= {"trigger": "x", "out": "a", "resolution": 64, "device": "cpu", "steps": STEPS}
    return fields.form_values({**given, **more})


def tab(desk: Desk, act: str, **more: object) -> list[str]:
    """Return what the tab tells, one after another."""
    values = settings(desk, **more)
    shown = getattr(ModelTab(desk, Form(desk, None)), act)
    return list(shown(*(values[name] for name in fields.NAMES)))


def told(desk: Desk, **more: object) -> str:
    """Return the time that the tab tells."""
    found = re.search(
        rf"<b>([^<]+)</b><span>time for {STEPS:,} steps<", tab(desk, "tell", **more)[-1]
    )
    assert found
    return found[1]


def test_steps_are_timed_once_for_all_runs_alike(desk: Desk) -> None:
    assert told(desk) == UNKNOWN
    note, last = tab(desk, "time_steps")
    assert "trained on noise" in note
    assert last == ""
    known = told(desk)
    assert re.fullmatch(r"\d+ (s|min)", known)
    assert told(desk, lr=0.5, seed=3, images="") == known
    assert told(desk, batch_size=3) == told(desk, precision="bf16") == UNKNOWN
    again = open_desk([desk.home])
    assert told(again) == known
    again.close()


# Times steps as the page does, and ends.
PROGRAM = """
import sys
from pathlib import Path
from trainer_ui.app import measured
from trainer_ui.app.desk import open_desk
from trainer_ui.engine.config import load
if __name__ == "__main__":
    desk = open_desk([Path(sys.argv[1])])
    measured.time(desk, load(Path(sys.argv[2]), {}))
    desk.close()
"""


def test_steps_are_timed_without_a_word_in_the_terminal(desk: Desk, tmp_path: Path) -> None:
    program, config = tmp_path / "program.py", tmp_path / "config.toml"
    program.write_text(PROGRAM, encoding="utf-8")
    config.write_text(dump(desk.config(settings(desk))), encoding="utf-8")
    command = [sys.executable, str(program), str(tmp_path / "other"), str(config)]
    ended = subprocess.run(
        command, cwd=ROOT, env=PATHS, capture_output=True, text=True, timeout=300
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_run_alike_knows_better_than_what_was_timed(desk: Desk) -> None:
    desk.runner.close()  # nothing is trained here
    config = desk.config(settings(desk))
    desk.timed.write({measured.alike(dump(config)): 1.0})
    assert told(desk) == "67 min"
    job = desk.store.set_state(desk.store.add("a run", dump(config)).id, "running")
    job.run_folder.mkdir(parents=True)
    now = time.time()
    start = events.Start(
        **{"time": now, "step": 0, "steps": STEPS, "pictures": 2, "resolution": 64, "entries": 9},
        **{"base": "b", "architecture": "sd15", "prediction": "epsilon", "device": "cpu"},
        processes=1,
    )
    lines = [start, *(_step(number, now + 2 * number) for number in (1, 2, 3))]
    text = "".join(line.model_dump_json() + "\n" for line in lines)
    (job.run_folder / events.NAME).write_text(text, encoding="utf-8")
    assert told(desk) == "2 h 13 min"
    assert told(desk, seed=9, lr=0.5) == "2 h 13 min"


def _step(number: int, at: float) -> events.Step:
    return events.Step(time=at, step=number, loss=1.0, norm=1.0, lr=1.0, eta=1.0)


@pytest.mark.parametrize("mask", ["moved", "grad", "struct"])
def test_every_mask_has_its_time_without_pictures(desk: Desk, mask: str) -> None:
    config = desk.config(settings(desk, mask=mask, optimizer="lion", batch_size=2, ema=0.9))
    shutil.rmtree(desk.home / "pictures")
    assert timing.seconds_per_step(config) > 0


def test_settings_that_cannot_be_trained_are_told(desk: Desk) -> None:
    assert "no diffusers folder" in tab(desk, "time_steps", base=str(desk.home / "pictures"))[-1]
    assert "device" in tab(desk, "time_steps", device="cuda:77")[-1]


def test_one_thing_at_a_time_has_a_device(desk: Desk) -> None:
    config = desk.config(settings(desk))
    with desk.runner.held("cpu"):
        job = desk.store.add("waits", dump(config))
        with pytest.raises(JobRefused, match="being timed"):
            measured.time(desk, config)
        with desk.runner.held("cuda:7"):
            pass
        assert desk.store.get(job.id).state == "queued"
        desk.runner.close()  # or it would train now
    desk.store.set_state(job.id, "running")
    with pytest.raises(JobRefused, match="waits is training on this device"):
        measured.time(desk, config)


def test_the_command_tells_the_time_and_keeps_nothing(
    tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--base", str(tiny_base), "--images", str(ROOT / "assets" / "samples" / "contrast")]
    flags += ["--trigger", "x", "--out", str(tmp_path / "x.shira"), "--device", "cpu"]
    assert main(["train", "--time", *flags, "--resolution", "64", "--steps", "1000"]) == 0
    line = capsys.readouterr().out
    found = re.fullmatch(r"(\d+\.\d{3}) s a step, ([\d:]+) for 1000 steps\n", line)
    assert found
    assert float(found[1]) > 0
    assert not list(tmp_path.iterdir())

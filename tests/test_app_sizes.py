"""The sizes that the page shows before a run are those that `shira train --dry-run` tells."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("gradio")
pytest.importorskip("diffusers")
from picture_files import picture
from trainer_runs import ROOT

from shira_core.cli import main
from trainer_ui.app import fields
from trainer_ui.app.dataset_tab import SIZED, DatasetTab
from trainer_ui.app.desk import Desk, open_desk
from trainer_ui.app.form import Form

BASE = ROOT / "assets" / "base"
# Of width and height: landscape, portrait, narrow ones, small ones, squares.
SHAPES = ((300, 200), (200, 300), (128, 128), (600, 100), (90, 70), (40, 30), (20, 9), (256, 250))
TOO_SMALL = "too small, not trained"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    home = tmp_path_factory.mktemp("home")
    for number, shape in enumerate(SHAPES):
        picture(home / "pictures" / f"{number}.png", shape)
    (home / "base").symlink_to(BASE)
    found = open_desk([home, BASE.parent])
    yield found
    found.close()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"resolution": 256},
        {"buckets": False},
        {"bucket_min": 96, "bucket_max": 192},
        {"enlarge": False},
        {"enlarge": False, "bucket_min": 64, "resolution": 192},
    ],
    ids=str,
)
def test_the_page_shows_what_the_run_trains(
    desk: Desk, given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = _shown(desk, given)
    folder = desk.home / "pictures"
    flags = ["--base", str(BASE), "--images", str(folder), "--trigger", "x", "--out", "a.shira"]
    for name, value in given.items():
        flag = name.replace("_", "-")
        flags += [f"--no-{flag}"] if value is False else [f"--{flag}", str(value)]
    assert main(["train", "--dry-run", *flags]) == 0
    told = capsys.readouterr().out
    line = next(line for line in told.splitlines() if line.startswith("buckets"))
    trained = dict(re.findall(r"(\d+x\d+): (\d+)", line))
    skipped = re.search(r"(\d+) pictures are skipped", told)
    assert shown == trained | ({TOO_SMALL: skipped[1]} if skipped else {})
    assert sum(map(int, shown.values())) == len(SHAPES)


def test_settings_that_leave_no_size_are_told(desk: Desk) -> None:
    assert "leave no room for the resolution" in _look(desk, {"bucket_min": 512})[2]
    assert "bucket_max" in _look(desk, {"bucket_max": 5})[2]


def _look(desk: Desk, given: dict[str, Any]) -> Any:
    """Return what the tab shows of the folder, when all of it has been looked at."""
    tab = DatasetTab(desk, Form(desk, None))
    path = str(desk.home / "pictures")
    assert tab.folder(path).wait(60)
    values = fields.form_values(given)
    return tab.look(path, "", ("", "", 0), "", str(BASE), *(values[name] for name in SIZED))


def _shown(desk: Desk, given: dict[str, Any]) -> dict[str, str]:
    rows = re.findall(r"<tr><th>(.*?)</th><td>(\d+) pictures</td>", _look(desk, given)[2])
    return dict(rows)

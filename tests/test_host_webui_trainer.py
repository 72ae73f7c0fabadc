"""The trainer's tab in a real WebUI: its page through the WebUI's server, behind its login.

`WEBUI_DIR=... pytest` (see hosts.py), and this checkout's `.venv` by `install.py trainer`.
"""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hosts
import pytest
import trainer_page
import webui_hosts
from hosts import Server
from trainer_page import TRAIN_MS
from webui_page import log_in

pytestmark = [
    hosts.needs("WEBUI_DIR"),
    pytest.mark.skipif(not (hosts.ROOT / ".venv").is_dir(), reason="install.py trainer makes it"),
]
LOGIN = ("painter", "brush")
PAGE = "shira/trainer/"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WebUI's folder with the shipped base among its models, and pictures for the trainer."""
    folder = tmp_path_factory.mktemp("webui")
    shutil.copytree(hosts.ROOT / "assets" / "base", folder / "models" / "bases" / "compact")
    pictures = hosts.ROOT / "assets" / "samples" / "contrast"
    shutil.copytree(pictures, folder / "shira-trainer" / "datasets" / "contrast")
    return folder


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Server]:
    login = ("--gradio-auth", ":".join(LOGIN))
    with webui_hosts.serving(webui_hosts.checkout(), data, data / "models", login) as found:
        yield found


def test_it_trains_in_the_tab_and_nobody_else_gets_in(server: Server, data: Path) -> None:
    for path in (PAGE, f"{PAGE}gradio_api/info", f"{PAGE}picture?path=models", PAGE.rstrip("/")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{server.url}/{path}")
        assert refused.value.code == 401
    with trainer_page.browsing(data) as page:
        log_in(page.tab, server.url, LOGIN)
        page.tab.get_by_role("tab", name="SHiRA trainer").or_(
            page.tab.get_by_role("button", name="SHiRA trainer")
        ).first.click()
        frame = page.tab.frame_locator("#shira_trainer_frame")
        _train(frame)
        page.shoot("webui-trainer", whole=False)
        assert not [each for each in page.errors if "shira" in each]
    assert (data / "shira-trainer" / "adapters" / "ink.shira").is_file()


def _train(frame: Any) -> None:
    frame.locator("#said .shira-note").wait_for(timeout=90_000)
    frame.locator("#set-images input").first.click()
    frame.get_by_role("option").filter(has_text="contrast").first.click()
    frame.locator("#gallery figure").nth(15).wait_for()
    _fill(frame, "set-trigger", "contrast style")
    frame.get_by_role("tab", name="Model & mask").click()
    frame.locator("#set-base input").first.click()
    frame.get_by_role("option").filter(has_text="compact").first.click()
    frame.locator("#mask-picture img").wait_for()
    frame.get_by_role("tab", name="Training", exact=True).click()
    values = {"out": "ink", "steps": "12", "sample_every": "6", "batch_size": "2"}
    for name, text in values.items():
        _fill(frame, f"set-{name}", text)
    frame.locator("#said").get_by_text("Everything is set").wait_for()
    frame.locator("#start").click()
    frame.locator("#chart svg .loss").wait_for(timeout=TRAIN_MS)
    frame.locator("#samples").get_by_text("step 6").wait_for(timeout=TRAIN_MS)
    frame.locator("#jobs").get_by_text("done").wait_for(timeout=TRAIN_MS)


def _fill(frame: Any, name: str, text: str) -> None:
    field = frame.locator(f"#{name} input, #{name} textarea").first
    field.fill(text)
    field.press("Tab")

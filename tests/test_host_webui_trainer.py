"""The trainer's tab in a real WebUI: its page through the WebUI's server, behind its login.

`WEBUI_DIR=... pytest` (see hosts.py), and this checkout's `.venv` by `install.py trainer`.
"""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hosts
import pytest
import trainer_page
import webui_hosts
from hosts import Server
from trainer_page import TRAIN_MS, Page
from webui_page import WebUI, log_in

import shira_core as shira

pytestmark = [
    hosts.needs("WEBUI_DIR"),
    pytest.mark.skipif(not (hosts.ROOT / ".venv").is_dir(), reason="install.py trainer makes it"),
]
LOGIN = ("painter", "brush")
PAGE = "shira/trainer/"
FRAME = "#shira_trainer_frame"
STEPS = 60


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
    more = ("--gradio-auth", ":".join(LOGIN), "--skip-load-model-at-start")
    with webui_hosts.serving(webui_hosts.checkout(), data, data / "none", more) as found:
        yield found


def test_nobody_gets_in_without_the_login(server: Server) -> None:
    for path in (PAGE, f"{PAGE}gradio_api/info", f"{PAGE}picture?path=models", PAGE.rstrip("/")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{server.url}/{path}")
        assert refused.value.code == 401


def test_from_pictures_to_a_row_of_the_host(
    server: Server, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    screens = tmp_path_factory.mktemp("screens")
    with _trainer(server, screens) as page:
        _start(page)
        page.shoot("webui-training", whole=False)
    with _trainer(server, screens) as page:  # the run went on without it
        page.go("Training")
        page.wait_for_text("#job-head", "ink")
        trainer_page.stop(page)
    with _trainer(server, screens) as page:
        page.go("Training")
        trainer_page.resume(page)
        page.wait_for_text("#jobs .state", "done", TRAIN_MS)
        page.shoot("webui-done", whole=False)
        _hand_on(page)
        _use(page)
        page.shoot("webui-row", whole=False)
    ours = shira.load(data / "models" / "shira" / "ink.shira")
    assert ours.header.triggers == ("contrast style", "ink")
    assert ours.header.training["steps"] == STEPS


@contextmanager
def _trainer(server: Server, screens: Path) -> Iterator[Page]:
    """Log in and go to the trainer's tab, in a browser of its own."""
    with trainer_page.browsing(screens) as page:
        log_in(page.tab, server.url, LOGIN)
        tabs = page.tab.locator("#tabs")
        named = {"name": "SHiRA trainer"}
        tabs.get_by_role("tab", **named).or_(tabs.get_by_role("button", **named)).first.click()
        page.enter(FRAME)
        yield page
        assert not [each for each in page.errors if "shira" in each]


def _start(page: Page) -> None:
    page.choose("set-images", "contrast")
    page.root.locator("#gallery figure").nth(15).wait_for()
    page.fill("set-trigger", "contrast style")
    page.go("Model & mask")
    page.choose("set-base", "compact")
    page.root.locator("#mask-picture img").wait_for()
    page.go("Training")
    values = {"out": "ink", "steps": str(STEPS), "sample_every": "6", "batch_size": "2"}
    for name, text in values.items():
        page.fill(f"set-{name}", text)
    page.wait_for_text("#said", "Everything is set")
    page.click("#start")
    page.root.locator("#chart svg .loss").wait_for(timeout=TRAIN_MS)
    page.wait_for_text("#samples", "step 6", TRAIN_MS)


def _hand_on(page: Page) -> None:
    page.go("After training")
    page.click("#after-again")
    page.wait_for_value("chosen", f"ink (step {STEPS})")
    page.wait_for_value("finish-triggers", "contrast style")
    page.fill("finish-triggers", "contrast style, ink")
    page.click("#finish")
    page.wait_for_text("#after-said", "is written")
    trainer_page.copy_to_host(page)


def _use(page: Page) -> None:
    """Find it among the host's own adapters, without loading the page anew."""
    webui = WebUI(page)
    webui.turn_to("txt2img")
    webui.wait_until_loaded()
    webui.ours("refresh").click()
    none = page.tab.locator(webui.accordion).get_by_text("No adapters yet")
    none.wait_for(state="hidden")
    webui.add("ink.shira")
    webui.ours("word", 1).get_by_text("ink", exact=True).wait_for()

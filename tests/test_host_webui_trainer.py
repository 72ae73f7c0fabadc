"""The trainer's tab in a real WebUI: its page through the WebUI's server, behind its login.

`WEBUI_DIR=... pytest` (see hosts.py), and this checkout's `.venv` by `install.py trainer`.
"""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hosts
import numpy as np
import pytest
import trainer_page
import webui_hosts
from full_size import FullSize
from hosts import DRAW_SECONDS, Server
from PIL import Image
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
CHECKPOINTS = Path("models", "Stable-diffusion")
STEPS = 60
FEW, SMALL = 3, 64  # steps of full size, pixels


@pytest.fixture(scope="module")
def data(full_size: FullSize, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WebUI's folder with the shipped base in both sizes, and pictures for the trainer."""
    folder = tmp_path_factory.mktemp("webui")
    shutil.copytree(hosts.ROOT / "assets" / "base", folder / "models" / "bases" / "compact")
    (folder / CHECKPOINTS).mkdir()
    os.link(full_size.plain, folder / CHECKPOINTS / "reference.safetensors")
    pictures = hosts.ROOT / "assets" / "samples" / "contrast"
    shutil.copytree(pictures, folder / "shira-trainer" / "datasets" / "contrast")
    return folder


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Server]:
    more = ("--gradio-auth", ":".join(LOGIN), "--skip-load-model-at-start")
    with webui_hosts.serving(webui_hosts.checkout(), data, data / CHECKPOINTS, more) as found:
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
        captioned = data / "shira-trainer" / "datasets" / "contrast" / "banana.txt"
        assert captioned.read_text("utf-8") == "banana, bent"
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
        _hand_on(page, "ink", STEPS)
        _use(page, "ink")
        page.shoot("webui-row", whole=False)
    ours = shira.load(data / "models" / "shira" / "ink.shira")
    assert ours.header.mask == "rand"
    assert ours.header.triggers == ("contrast style", "ink")
    assert ours.header.training["steps"] == STEPS


def test_the_hosts_checkpoint_draws_what_was_trained_on_it(
    server: Server, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with _trainer(server, tmp_path_factory.mktemp("screens")) as page:
        page.go("Model & mask")
        page.choose("set-base", "reference")
        page.go("Training")
        few = {"out": "few", "steps": str(FEW), "lr": "0.05", "batch_size": "1"}
        _set(page, {**few, "sample_every": "0"})
        page.unfold("What a run writes")
        _set(page, {"sample_count": "0"})
        page.go("Dataset")
        _set(page, {"resolution": str(SMALL)})
        page.go("Training")
        page.wait_for_text("#said", "Everything is set")
        page.click("#start")
        page.wait_for_text("#job-head", "few")
        page.wait_for_text("#jobs li:has-text('few') .state", "done", TRAIN_MS)
        _hand_on(page, "few", FEW)
        webui = _use(page, "few")
        for name, value in {"width": SMALL, "height": SMALL, "steps": 2, "seed": 1}.items():
            webui.number(name, value)
        webui.prompt("noto style, cat")
        with_it = _drawn(webui, data)
        webui.ours("on").click()
        plain = _drawn(webui, data)
        page.shoot("webui-drawn", whole=False)
    assert np.abs(with_it - plain).mean() > 5


def _drawn(webui: WebUI, data: Path) -> np.ndarray:
    """Generate a picture; return its file's pixels."""
    webui.draw(DRAW_SECONDS)
    files = (data / "outputs").rglob("*.png")
    last = max(files, key=lambda file: (file.stat().st_mtime_ns, file.name))
    return np.asarray(Image.open(last), dtype=np.float32)


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
    page.root.get_by_label("caption of banana.png").fill("banana, bent")
    page.root.get_by_label("caption of banana.png").press("Tab")
    page.wait_for_text("#caption-saved", "banana.png is saved")
    page.go("Model & mask")
    page.choose("set-base", "compact")
    page.choose("set-mask", "rand")
    page.wait_for_text("#mask-explained", "at random")
    page.root.locator("#mask-picture img").wait_for()
    page.go("Training")
    _set(page, {"out": "ink", "steps": str(STEPS), "sample_every": "6", "batch_size": "2"})
    page.wait_for_text("#said", "Everything is set")
    page.click("#start")
    page.root.locator("#chart svg .loss").wait_for(timeout=TRAIN_MS)
    page.wait_for_text("#samples", "step 6", TRAIN_MS)


def _set(page: Page, values: dict[str, str]) -> None:
    for name, text in values.items():
        page.fill(f"set-{name}", text)


def _hand_on(page: Page, name: str, step: int) -> None:
    page.go("After training")
    page.click("#after-again")
    page.wait_for_value("chosen", f"{name} (step {step})")
    page.wait_for_value("finish-triggers", "contrast style")
    page.fill("finish-triggers", f"contrast style, {name}")
    page.click("#finish")
    page.wait_for_text("#after-said", "is written")
    trainer_page.copy_to_host(page)


def _use(page: Page, name: str) -> WebUI:
    """Choose it in a row of the host, whose page is not loaded anew."""
    webui = WebUI(page)
    webui.turn_to("txt2img")
    webui.wait_until_loaded()
    webui.ours("refresh").click()
    none = page.tab.locator(webui.accordion).get_by_text("No adapters yet")
    none.wait_for(state="hidden")
    webui.add(f"{name}.shira")
    webui.ours("word", 1).get_by_text(name, exact=True).wait_for()
    return webui

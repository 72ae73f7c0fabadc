"""ComfyUI's menu entry to the trainer; `COMFYUI_DIR=... pytest` (see hosts.py)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import hosts
import pytest
from comfyui_page import Page, browsing
from trainer_page import OPEN_MS, serve

pytestmark = hosts.needs("COMFYUI_DIR")
pytest.importorskip("gradio")
PORT = 7870  # the one that the entry looks at


@pytest.fixture
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    checkout = hosts.checkout("COMFYUI_DIR", "COMFYUI_PYTHON")
    with (
        hosts.serving_comfyui(checkout, tmp_path_factory.mktemp("comfyui")) as server,
        browsing(tmp_path_factory.mktemp("screens")) as found,
    ):
        found.open(server.url)
        yield found
        assert not found.errors, found.errors


def test_the_menu_tells_how_to_start_the_trainer_and_opens_it(page: Page, tmp_path: Path) -> None:
    with socket.socket() as port:
        if not port.connect_ex((hosts.HERE, PORT)):
            pytest.skip(f"something listens on port {PORT}")
    _choose(page)
    dialog = page.tab.locator("dialog.shira-trainer")
    dialog.get_by_text("python install.py trainer").wait_for()
    page.shoot("told")
    page.tab.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    trainer = serve((tmp_path,), tmp_path / "log.txt", PORT)
    try:
        with page.tab.expect_popup() as opened:
            _choose(page)
        opened.value.locator("#said .shira-note").wait_for(timeout=OPEN_MS)
        opened.value.screenshot(path=page.screens / "opened.png")
    finally:
        trainer.kill()


def _choose(page: Page) -> None:
    """Open ComfyUI's menu and choose the entry, by mouse."""
    page.tab.locator(".comfyui-logo-wrapper").click()
    page.tab.get_by_role("menuitem", name="Extensions", exact=True).hover()
    page.shoot("menu")
    page.tab.get_by_role("menuitem", name="SHiRA trainer").click()

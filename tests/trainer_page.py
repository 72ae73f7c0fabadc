"""The trainer's page in a headless Chromium, used as a person does; and its server for that."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from comfyui_page import BROWSERS

ROOT = Path(__file__).resolve().parent.parent
HERE = "127.0.0.1"
START_SECONDS = 120
STEP_MS, OPEN_MS, TRAIN_MS = 60_000, 90_000, 300_000
SIZE = {"width": 1400, "height": 900}


# Serves, and says which callback of the event loop has computed for more than 0.2 s at once.
WATCHED = """
import asyncio.events, sys, time
from shira_core.cli import main
run = asyncio.events.Handle._run
def watched(handle):
    start = time.thread_time()
    run(handle)
    took = time.thread_time() - start
    if took > 0.2:
        print("BLOCKED for", took, handle, file=sys.stderr, flush=True)
asyncio.events.Handle._run = watched
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@dataclass
class Served:
    """A running trainer, and where it keeps its files."""

    process: subprocess.Popen[bytes]
    url: str
    roots: tuple[Path, ...]
    log: Path
    port: int

    @property
    def blocked(self) -> list[str]:
        """Callbacks that kept the event loop from all others."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if line.startswith("BLOCKED")]

    def interrupt(self) -> int:
        """End it as Ctrl-C in a terminal does, where its own processes get it too; its code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(60)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.process.kill()
        self.process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((HERE, 0))
        return int(found.getsockname()[1])


def serve(roots: tuple[Path, ...], log: Path, port: int = 0, **environment: str) -> Served:
    """Start the trainer and wait until it answers. port: 0 for a free one."""
    port = port or _free_port()
    folders = [part for root in roots for part in ("--root", str(root))]
    program = log.with_name("watched.py")
    program.write_text(WATCHED, encoding="utf-8")
    more = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, str(program), "trainer", "--port", str(port), *folders],
            cwd=ROOT,
            env={**os.environ, **more},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    served = Served(process, f"http://{HERE}:{port}/", roots, log, port)
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(served.url, timeout=5).close()
            return served
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    served.kill()
    raise AssertionError(log.read_text(encoding="utf-8"))


class Page:
    """One open page. `outside`: requests to other servers; `errors`: of scripts.

    tab: the browser's. root: where the trainer is in it, itself or a frame.
    """

    def __init__(self, tab: Any, screens: Path) -> None:
        self.tab, self.root, self.screens = tab, tab, screens
        self.outside, self.errors = list[str](), list[str]()
        self.inside = ""
        tab.on("request", self._request)
        tab.on("pageerror", lambda error: self.errors.append(f"{error} {error.stack}"))
        tab.on("dialog", lambda dialog: self.errors.append(f"a dialog: {dialog.message}"))

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.inside, "data:", "blob:")):
            self.outside.append(request.url)

    def open(self, url: str) -> None:
        """Load the page, and wait until the kept settings are in it."""
        self.inside = url
        self.tab.goto(url, timeout=OPEN_MS)
        self.wait_until_filled()

    def enter(self, frame: str) -> None:
        """Go on in a frame of the page, when the kept settings are in it."""
        self.root = self.tab.frame_locator(frame)
        self.wait_until_filled()

    def wait_until_filled(self) -> None:
        """Wait until the kept settings are there."""
        self.root.locator("#set-images input").wait_for(timeout=OPEN_MS)
        self.root.locator("#said .shira-note").wait_for(timeout=OPEN_MS)

    def go(self, tab: str) -> None:
        """Choose a tab."""
        self.root.get_by_role("tab", name=tab, exact=True).click()

    def click(self, place: str) -> None:
        """Click what a selector finds."""
        self.root.locator(place).click()

    def field(self, name: str) -> Any:
        """Return where text is typed."""
        return self.root.locator(f"#{name} input, #{name} textarea").first

    def fill(self, name: str, text: str) -> None:
        """Type into a field, and leave it."""
        self.field(name).fill(text)
        self.field(name).press("Tab")

    def wait_for_value(self, name: str, text: str) -> None:
        """Wait until a field holds exactly this."""
        from playwright.sync_api import expect

        expect(self.field(name)).to_have_value(text, timeout=STEP_MS)

    def choose(self, name: str, text: str) -> None:
        """Choose from a list."""
        self.root.locator(f"#{name} input").first.click()
        self.root.get_by_role("option").filter(has_text=text).first.click()

    def unfold(self, text: str) -> None:
        """Open or close a part that is folded up."""
        folded = self.root.locator("button.label-wrap").filter(has_text=text)
        folded.locator("visible=true").first.click()

    def wait_for_text(self, place: str, text: str, timeout: int = STEP_MS) -> None:
        """Wait until a text is shown somewhere."""
        self.root.locator(place).get_by_text(text).first.wait_for(timeout=timeout)

    def shoot(self, name: str, whole: bool = True) -> None:
        """Keep a picture of the page."""
        self.tab.screenshot(path=self.screens / f"{name}.png", full_page=whole)


# ---- what is done on the page alone and in a WebUI ----
def stop(page: Page) -> None:
    """Stop the job that trains."""
    page.root.get_by_role("button", name="finish the step").click()
    page.wait_for_text("#jobs .state", "stopped", TRAIN_MS)
    page.shoot("stopped")


def resume(page: Page) -> None:
    """Let the job that was stopped go on."""
    page.root.get_by_role("button", name="go on from").click()
    page.wait_for_text("#jobs .state", "running", TRAIN_MS)


def copy_to_host(page: Page) -> None:
    """Copy what was trained to the host, and wait until it is there."""
    page.click("#copy")
    page.wait_for_text("#after-said", "Copied")


@contextmanager
def browsing(screens: Path, size: dict[str, int] = SIZE, scheme: str = "light") -> Iterator[Page]:
    """Start the machine's Chromium; a failing step is pictured as `end.png`."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        context = browser.new_context(viewport=size, locale="en-US", color_scheme=scheme)
        context.set_default_timeout(STEP_MS)
        page = Page(context.new_page(), screens)
        try:
            yield page
        finally:
            page.shoot("end")
            browser.close()

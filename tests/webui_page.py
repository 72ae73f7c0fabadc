"""A WebUI's real page in a headless Chromium, used as a person does; and its server for that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hosts
from comfyui_page import Page, browsing
from hosts import Checkout, Server

CLONE = "sd-webui-shira"
START = (
    *("launch.py", "--api", "--server-name", hosts.HERE),
    *("--skip-prepare-environment", "--skip-version-check", "--no-download-sd-model"),
    *("--no-hashing", "--disable-console-progressbars"),
)
ON_CPU = {
    "a1111": ("--use-cpu", "all", "--no-half", "--opt-channelslast"),
    "forge": ("--always-cpu", "--all-in-fp32"),
}
UI_MS = 60_000
TAB = "txt2img"


@contextmanager
def serving_page(
    checkout: Checkout, data: Path, checkpoints: Path, more: tuple[str, ...] = ()
) -> Iterator[Server]:
    """Start a WebUI with its page; this checkout is among its extensions."""
    (data / "extensions").mkdir(parents=True, exist_ok=True)
    (data / "extensions" / CLONE).symlink_to(hosts.ROOT)
    kind = "forge" if (checkout.folder / "modules_forge").is_dir() else "a1111"
    # Forge serves scripts of its own page only from the folder of its data.
    allowed = ("--gradio-allowed-path", str(checkout.folder))
    folders = ("--data-dir", str(data), "--ckpt-dir", str(checkpoints), *allowed)
    start = (*START, *ON_CPU[kind], *folders, *more)
    log, ready = data / "log.txt", "/sdapi/v1/options"
    with hosts.serving(checkout, start, log, ready, said="Startup time") as server:
        yield server


class WebUI:
    """The tab txt2img with the accordion open."""

    def __init__(self, page: Page) -> None:
        self.page, self.tab = page, page.tab

    def open(self, url: str) -> None:
        """Load the page and open the accordion."""
        self.tab.goto(url, timeout=UI_MS)
        self.tab.wait_for_selector(f"#shira_{TAB}", timeout=UI_MS)
        self.tab.wait_for_selector(f"#shira_{TAB} .shira-add", state="attached", timeout=UI_MS)
        self.tab.click(f"#shira_{TAB} >> text=SHiRA")
        self.tab.wait_for_selector(f"#shira_{TAB} .shira-add")

    def ours(self, control: str, row: int = 0) -> Any:
        """Return a control of the accordion by its class."""
        return self.tab.locator(f"#shira_{TAB} .shira-{control}").nth(row)

    def rows(self) -> list[dict[str, Any]]:
        """Return the accordion's rows."""
        found: list[dict[str, Any]] = json.loads(
            self.tab.input_value(f"#shira_{TAB}_rows textarea")
        )
        return found

    def wait_for_rows(self, count: int) -> None:
        """Wait until so many rows are drawn."""
        drawn = f"() => document.querySelectorAll('#shira_{TAB} .shira-row').length === {count}"
        self.tab.wait_for_function(drawn)

    def clear(self) -> None:
        """Remove all rows, and empty the prompt."""
        while self.tab.locator(f"#shira_{TAB} .shira-remove").count():
            self.ours("remove").click()
        self.prompt("")

    def add(self, name: str) -> None:
        """Add a row for a file."""
        self.ours("add").click()
        self.ours("file", len(self.rows()) - 1).select_option(name)

    def prompt(self, text: str) -> None:
        """Type a prompt."""
        self.tab.fill(f"#{TAB}_prompt textarea", text)

    def prompted(self) -> str:
        """Return the prompt."""
        return str(self.tab.input_value(f"#{TAB}_prompt textarea"))

    def number(self, name: str, value: int) -> None:
        """Type the value of one of the host's sliders."""
        field = self.tab.locator(f"#{TAB}_{name} input[type=number]").first
        field.fill(str(value))
        field.press("Tab")

    def readout(self) -> Any:
        """Return the read-out."""
        return self.tab.locator(f"#shira_{TAB} .shira-readout")

    def draw(self, seconds: float) -> str:
        """Generate a picture; return its infotext."""
        self.tab.click(f"#{TAB}_generate")
        info = self.tab.locator(f"#html_info_{TAB}").get_by_text("Seed: ")
        info.wait_for(timeout=1000 * seconds)
        return str(info.inner_text())

    def choose_page(self, title: str) -> None:
        """Go to one of the pages below the prompt: Generation, or that of cards."""
        self.tab.click(f"#{TAB}_extra_tabs button:has-text('{title}') >> nth=0")

    def card(self, name: str) -> Any:
        """Return the card of a file."""
        return self.tab.locator(f'#{TAB}_shira_cards .card[data-name="{name}"]')


@contextmanager
def browsing_webui(url: str, screens: Path) -> Iterator[WebUI]:
    """Open the page of a running WebUI."""
    with browsing(screens) as page:
        webui = WebUI(page)
        webui.open(url)
        yield webui
        assert not page.errors, page.errors

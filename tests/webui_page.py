"""A WebUI's real page in a headless Chromium, used as a person does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from comfyui_page import Page, browsing

UI_MS, STEP_MS = 60_000, 30_000


class WebUI:
    """The page; `name` is the tab that is in front, txt2img or img2img, with its accordion open."""

    def __init__(self, page: Page) -> None:
        self.page, self.tab, self.name = page, page.tab, "txt2img"

    def open(self, url: str) -> None:
        """Load the page and open the accordion."""
        self.tab.goto(url, timeout=UI_MS)
        self.wait_until_loaded()

    def wait_until_loaded(self) -> None:
        """Wait for the page, and open the accordion."""
        self.name = "txt2img"
        self.tab.wait_for_selector(f"{self.accordion} .shira-add", state="attached", timeout=UI_MS)
        self._unfold()

    def _unfold(self) -> None:
        if not self.ours("add").is_visible():
            self.tab.click(f"{self.accordion} >> text=SHiRA")
        self.tab.wait_for_selector(f"{self.accordion} .shira-add")

    @property
    def accordion(self) -> str:
        """The selector of the accordion."""
        return f"#shira_{self.name}"

    def turn_to(self, name: str) -> None:
        """Go to a tab."""
        self.tab.locator("#tabs > .tab-nav > button", has_text=name).first.click()
        self.name = name

    def send_to(self, place: str) -> None:
        """Send the picture to img2img or inpaint, which is in front then."""
        self.tab.click(f"#{self.name}_send_to_{place}")
        self.name = "img2img"
        self.tab.wait_for_selector("#img2img_generate")
        self._unfold()

    def choose(self, label: str, *choices: str) -> None:
        """Choose from one of the lists of the host's scripts."""
        block = f"#{self.name}_script_container .block:has(span:text-is('{label}'))"
        field = self.tab.locator(f"{block} input:visible").first
        for choice in choices:
            field.click()
            field.fill(choice)
            field.press("Enter")
        field.press("Tab")

    def ours(self, control: str, row: int = 0) -> Any:
        """Return a control of the accordion by its class."""
        return self.tab.locator(f"{self.accordion} .shira-{control}").nth(row)

    def rows(self) -> list[dict[str, Any]]:
        """Return the accordion's rows."""
        found: list[dict[str, Any]] = json.loads(
            self.tab.input_value(f"{self.accordion}_rows textarea")
        )
        return found

    def wait_for_rows(self, count: int) -> None:
        """Wait until so many rows are drawn."""
        drawn = f"document.querySelectorAll('{self.accordion} .shira-row').length === {count}"
        self.tab.wait_for_function(f"() => {drawn}")

    def clear(self) -> None:
        """Remove all rows, and empty the prompt."""
        while self.tab.locator(f"{self.accordion} .shira-remove").count():
            self.ours("remove").click()
        self.prompt("")

    def add(self, name: str) -> None:
        """Add a row for a file."""
        self.ours("add").click()
        self.ours("file", len(self.rows()) - 1).select_option(name)

    def prompt(self, text: str) -> None:
        """Type a prompt."""
        self.tab.fill(f"#{self.name}_prompt textarea", text)

    def prompted(self) -> str:
        """Return the prompt."""
        return str(self.tab.input_value(f"#{self.name}_prompt textarea"))

    def number(self, name: str, value: int) -> None:
        """Type the value of one of the host's sliders."""
        field = self.tab.locator(f"#{self.name}_{name} input[type=number]").first
        field.fill(str(value))
        field.press("Tab")

    def readout(self) -> Any:
        """Return the read-out."""
        return self.tab.locator(f"{self.accordion} .shira-readout")

    def draw(self, seconds: float) -> str:
        """Generate a picture; return its infotext."""
        self.tab.click(f"#{self.name}_generate")
        busy = self.tab.locator(f"#{self.name}_interrupt")
        busy.wait_for()
        busy.wait_for(state="hidden", timeout=1000 * seconds)
        return str(self.tab.locator(f"#html_info_{self.name}").get_by_text("Seed: ").inner_text())

    def choose_page(self, title: str) -> None:
        """Go to one of the pages below the prompt: Generation, or that of cards."""
        self.tab.click(f"#{self.name}_extra_tabs button:has-text('{title}') >> nth=0")

    def card(self, name: str) -> Any:
        """Return the card of a file."""
        return self.tab.locator(f'#{self.name}_shira_cards .card[data-name="{name}"]')


def log_in(tab: Any, url: str, pair: tuple[str, str]) -> None:
    """Log in as the WebUI's form does, and load its page."""
    form = urlencode(dict(zip(("username", "password"), pair, strict=True)))
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert tab.request.post(f"{url}/login", data=form, headers=kind).ok
    tab.goto(url, timeout=UI_MS)


@contextmanager
def browsing_webui(
    url: str, screens: Path, login: tuple[str, str] | None = None
) -> Iterator[WebUI]:
    """Open the page of a running WebUI, with a name and password if it has a login."""
    with browsing(screens) as page:
        page.tab.set_default_timeout(STEP_MS)
        if login:
            log_in(page.tab, url, login)
        webui = WebUI(page)
        webui.open(url)
        yield webui
        assert not page.errors, page.errors

"""ComfyUI's real page in a headless Chromium, used as a person does: by mouse and keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page as Tab

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = {"width": 1400, "height": 900}
START_MS, STEP_MS, RUN_MS = 90_000, 30_000, 600_000
CANVAS = "#graph-canvas"
MASK = ".p-dialog-mask"
_NODE = "const node = app.graph.nodes.find((each) => each.type === type);"
_CLEAR = """() => {
  app.canvas.deselectAll();
  app.graph.clear();
  Object.assign(app.canvas.ds, { scale: 1, offset: [0, 0] });
  app.canvas.draw(true, true);
}"""
_VALUE = (
    "([type, name]) => {"
    + _NODE
    + "return node.widgets.find((each) => each.name === name).value; }"
)
_CHOOSE = (
    "([type, name, value]) => {"
    + _NODE
    + """
  const widget = node.widgets.find((each) => each.name === name);
  widget.value = value;
  widget.callback?.(value);
}"""
)
_PLACE = (
    "([type, name]) => {"
    + _NODE
    + """
  const widget = node.widgets.find((each) => each.name === name);
  const { offset, scale } = app.canvas.ds;
  const corner = app.canvas.canvas.getBoundingClientRect();
  const at = (x, y) => [(x + offset[0]) * scale + corner.x, (y + offset[1]) * scale + corner.y];
  const y = node.pos[1] + widget.last_y + 10;
  return [...at(node.pos[0] + 15, y), ...at(node.pos[0] + node.size[0] - 15, y)];
}"""
)


class Page:
    """One open page: gestures, what the graph holds, and screenshots."""

    def __init__(self, tab: Tab, screens: Path) -> None:
        self.tab, self.screens, self.errors = tab, screens, list[str]()
        tab.on("pageerror", self._note)
        tab.on("dialog", self._refuse)

    def _note(self, error: Any) -> None:
        """Keep errors of node packs; ComfyUI's page has some of its own."""
        if "/extensions/" in str(error.stack):
            self.errors.append(f"{error} {error.stack}")

    def _refuse(self, dialog: Any) -> None:
        """Keep what a dialog says: none of ours opens one, so a script has run that should not."""
        self.errors.append(f"a dialog opened: {dialog.message}")
        dialog.dismiss()

    def open(self, url: str) -> None:
        """Load the page, wait until our nodes are registered, and begin with an empty graph."""
        self.tab.goto(url, timeout=START_MS)
        known = (
            "() => !!window.LiteGraph?.registered_node_types?.SHiRALoader && !!window.app?.graph"
        )
        self.tab.wait_for_function(known, timeout=START_MS)
        self.tab.wait_for_selector(CANVAS)
        self._close_templates()
        self.clear()

    def _close_templates(self) -> None:
        """Close the template browser, which the page opens by itself for a new user."""
        self.tab.wait_for_selector(MASK)
        self.tab.keyboard.press("Escape")
        self.tab.wait_for_selector(MASK, state="detached")

    def clear(self) -> None:
        """Empty the graph, and look at its origin in full size."""
        self.tab.evaluate(_CLEAR)
        self._rest()

    def show(self, kind: str) -> None:
        """Look at the first node of a type in full size: far away, panels are only boxes."""
        look = "app.canvas.ds.scale = 1; app.canvas.centerOnNode(node);"
        self.run(f"(type) => {{ {_NODE} {look} app.canvas.setDirty(true, true); }}", kind)

    def run(self, script: str, argument: object = None) -> Any:
        """Evaluate a function of JavaScript in the page."""
        return self.tab.evaluate(script, argument)

    def drop_node(self, title: str, x: int, y: int) -> None:
        """Double-click the canvas, search a node by its title and take the first one found."""
        self.tab.mouse.dblclick(x, y)
        self.tab.wait_for_selector(".comfy-vue-node-search-container input")
        self.tab.keyboard.type(title)
        # Enter takes the marked one; a list that is being found anew has none
        self.tab.wait_for_selector(f".p-autocomplete-option.p-focus >> text={title}")
        self.tab.keyboard.press("Enter")
        self.tab.wait_for_selector(".comfy-vue-node-search-container", state="hidden")
        drawn = "() => app.graph.nodes.every((n) => n.widgets.every((w) => w.hidden || w.last_y))"
        self.tab.wait_for_function(drawn)
        self.tab.wait_for_selector(MASK, state="detached")
        self._rest()

    def _rest(self) -> None:
        """Wait until a click would no longer count to the last double click."""
        self.tab.wait_for_timeout(500)

    def widget(self, kind: str, name: str) -> Any:
        """Return the value of a widget of the first node of a type."""
        return self.run(_VALUE, [kind, name])

    def place(self, kind: str, name: str, share: float = 0.5) -> tuple[float, float]:
        """Return where on the screen a canvas widget is, at a share of its width."""
        left, top, right, _ = self.run(_PLACE, [kind, name])
        return left + share * (right - left), top

    def pick(self, kind: str, name: str, choice: str) -> None:
        """Choose from a list on the canvas."""
        self.tab.mouse.click(*self.place(kind, name), delay=100)
        self.tab.click(f".litecontextmenu .litemenu-entry >> text={choice}")

    def choose(self, kind: str, name: str, value: object) -> None:
        """Set a widget as its own menu would."""
        self.run(_CHOOSE, [kind, name, value])

    def slide(self, kind: str, name: str, start: float, end: float) -> None:
        """Drag along a canvas widget, between two shares of its width."""
        self.tab.mouse.move(*self.place(kind, name, start))
        self.tab.mouse.down()
        self.tab.mouse.move(*self.place(kind, name, (start + end) / 2), steps=4)
        self.tab.mouse.move(*self.place(kind, name, end), steps=4)
        self.tab.mouse.up()

    def type_value(self, kind: str, name: str, text: str) -> None:
        """Click a canvas widget and type its value."""
        self.tab.mouse.click(*self.place(kind, name), delay=100)
        self.tab.fill(".graphdialog input", text)
        self.tab.keyboard.press("Enter")

    def shoot(self, name: str) -> None:
        """Keep a picture of the page."""
        self.tab.screenshot(path=self.screens / f"{name}.png")


@contextmanager
def browsing(screens: Path) -> Iterator[Page]:
    """Start the machine's Chromium, or the one that playwright has installed."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        found = next(filter(None, map(shutil.which, BROWSERS)), None)
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        context = browser.new_context(viewport=SIZE, locale="en-US")
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        context.set_default_timeout(STEP_MS)
        try:
            yield Page(context.new_page(), screens)
        finally:
            browser.close()

"""Our nodes on ComfyUI's real page, by mouse and keyboard; `COMFYUI_DIR=... pytest` (see hosts.py).

Screenshots of each step are kept in pytest's temporary folder, `screens*`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import hosts
import pytest
from comfyui_page import RUN_MS, Page, browsing
from full_size import FullSize
from hosts import CLONE, Server

pytestmark = hosts.needs("COMFYUI_DIR")
CHECKPOINT, ADAPTERS = "sd15-reference.safetensors", ("blueprint-sd15.shira", "riso-sd15.shira")
BAKED = "checkpoints/test_00001_.safetensors"
COMPACT = "compact.shira"
NASTY = "a<img src=x onerror=alert(1)>.shira"
LOADER, STACK = "SHiRALoader", "SHiRAStack"
OPENED = "() => app.graph.nodes.some((node) => node.comfyClass?.startsWith('SHiRA'))"
EXAMPLES = {"1-load-one-adapter": LOADER, "2-fuse-two": STACK, "3-alpha-sweep": "SHiRAAlphaSweep"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("comfyui")


@pytest.fixture
def adapters(base: Path) -> Path:
    return base / "models" / "shira"


@pytest.fixture(scope="module")
def comfyui(full_size: FullSize, base: Path) -> Iterator[Server]:
    """A server with the widened reference base and two adapters."""
    models = base / "models"
    for folder in (models / "checkpoints", models / "shira"):
        folder.mkdir(parents=True)
    (models / "checkpoints" / CHECKPOINT).symlink_to(full_size.plain)
    for name in ADAPTERS:  # copies: a link out of models/shira is refused
        shutil.copy(full_size.wide, models / "shira" / name)
    shutil.copy(full_size.compact, models / "shira" / COMPACT)
    checkout = hosts.checkout("COMFYUI_DIR", "COMFYUI_PYTHON")
    with hosts.serving_comfyui(checkout, base) as server:
        yield server


@pytest.fixture(scope="module")
def opened(comfyui: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("screens")) as page:
        page.open(comfyui.url)
        yield page
        assert not page.errors, page.errors


@pytest.fixture
def page(opened: Page) -> Page:
    opened.clear()
    return opened


def rows(page: Page) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = json.loads(page.widget(STACK, "rows"))
    return read


def test_a_loader_is_found_shows_its_file_and_slides(page: Page) -> None:
    page.drop_node("Load SHiRA", 200, 200)
    page.pick(LOADER, "adapter", "riso-sd15.shira")
    card = page.tab.locator(".shira-card")
    card.get_by_text("SD1.5").wait_for()
    page.slide(LOADER, "alpha", 0.75, 0.9)
    assert page.widget(LOADER, "alpha") == pytest.approx(-2 + 4 * 0.9, abs=0.02)
    page.type_value(LOADER, "alpha", "-3.125")
    assert page.widget(LOADER, "alpha") == -3.125
    page.shoot("loader")


def test_a_files_name_is_never_shown_as_html(page: Page, adapters: Path) -> None:
    page.drop_node("Load SHiRA", 200, 200)
    page.drop_node("Fuse SHiRA Stack", 700, 200)
    nasty = adapters / NASTY
    shutil.copy(adapters / ADAPTERS[0], nasty)
    try:
        page.tab.keyboard.press("r")  # ComfyUI's key to read lists of files anew
        page.tab.wait_for_timeout(2000)
        page.tab.mouse.click(*page.place(LOADER, "adapter"), delay=100)
        page.tab.wait_for_selector(".litecontextmenu")
        assert page.tab.locator("img[src='x']").count() == 0  # that menu shows names as HTML
        page.tab.keyboard.press("Escape")
        page.choose(LOADER, "adapter", NASTY)  # as a workflow from elsewhere may
        page.run(
            "(text) => { const n = app.graph.nodes.find((n) => n.type === 'SHiRAStack');"
            "n.widgets.find((w) => w.name === 'rows').value = text; n.onConfigure({}); }",
            json.dumps([{"name": NASTY}]),
        )
        page.tab.wait_for_timeout(500)
        assert NASTY in page.tab.locator(".shira-file option").first.inner_text()
        assert page.tab.locator("img[src='x']").count() == 0
        page.shoot("name")
    finally:
        nasty.unlink()
        page.tab.keyboard.press("r")


def test_a_file_that_does_not_fit_is_told_before_queueing(page: Page) -> None:
    page.drop_node("Load SHiRA", 500, 150)
    page.drop_node("Fuse SHiRA Stack", 500, 500)
    page.run(
        """([file]) => {
          const loader = LiteGraph.createNode('CheckpointLoaderSimple');
          app.graph.add(loader);
          loader.widgets.find((w) => w.name === 'ckpt_name').value = file;
          for (const type of ['SHiRALoader', 'SHiRAStack']) {
            const node = app.graph.nodes.find((n) => n.type === type);
            loader.connect(0, node, node.findInputSlot('model'));
          }
        }""",
        [CHECKPOINT],
    )
    told = page.tab.locator(".shira-panel [role=alert]")
    page.choose(LOADER, "adapter", COMPACT)
    page.choose(STACK, "rows", json.dumps([{"name": COMPACT}, {"name": ADAPTERS[0]}]))
    for place in (told.nth(0), told.nth(1)):
        place.get_by_text("was trained for compact SD1.5 and the model is SD1.5").wait_for()
        assert place.locator("div").count() == 1
    page.shoot("misfits")
    page.choose(LOADER, "adapter", ADAPTERS[0])
    page.choose("CheckpointLoaderSimple", "ckpt_name", "gone.safetensors")
    page.tab.wait_for_timeout(1000)
    assert told.nth(0).inner_text() == told.nth(1).inner_text() == ""


def test_rows_are_edited_by_keyboard_alone(page: Page) -> None:
    page.drop_node("Fuse SHiRA Stack", 300, 150)
    page.tab.locator(".shira-add").focus()
    keys = page.tab.keyboard
    keys.press("Enter")  # the new row's file list has the focus then
    keys.type("blue")
    for key in ("Tab", "Enter"):  # an only row cannot move: Tab goes to its remove button
        keys.press(key)
    assert rows(page) == []
    page.tab.locator(".shira-add").focus()
    for _ in ADAPTERS:
        keys.press("Enter")
        page.tab.locator(".shira-add").focus()
    first, second = rows(page)
    page.tab.locator(".shira-down").first.focus()
    keys.press("Space")
    assert rows(page) == [second, first]
    page.tab.locator(".shira-alpha").first.focus()
    keys.press("ArrowLeft")
    assert rows(page)[0]["alpha"] == rows(page)[0]["alpha_te"] == 0.95
    page.tab.locator("input[type=checkbox]").first.focus()
    keys.press("Space")
    assert [row["on"] for row in rows(page)] == [False, True]
    keys.press("Delete")  # of the page: removes the node, were it not kept from it
    assert len(rows(page)) == 2
    page.shoot("rows")


def test_an_example_runs_reports_and_reproduces(page: Page, comfyui: Server) -> None:
    open_template(page, "2-fuse-two")
    page.show(STACK)
    assert [row["name"] for row in rows(page)] == ["riso-sd15.shira", "blueprint-sd15.shira"]
    number = page.tab.locator(".shira-number").first
    number.fill("0.625")
    number.press("Tab")
    page.run(
        "() => { for (const n of app.graph.nodes) if (n.type === 'KSampler') "
        "n.widgets.find((w) => w.name === 'steps').value = 2 }"
    )
    edited, before = rows(page), comfyui.ask("/history")
    assert edited[0]["alpha"] == 0.625

    page.tab.get_by_test_id("queue-button").click()
    page.tab.wait_for_selector(".shira-report", timeout=RUN_MS)
    report = page.tab.locator(".shira-report").inner_text()
    assert "overlap" in report
    assert "in place" in report
    picture = comfyui.wait(lambda: saved_picture(comfyui, before), hosts.DRAW_SECONDS, "picture")
    page.shoot("report")

    saved = page.run("() => JSON.stringify(app.graph.serialize())")
    page.clear()
    page.run("(text) => app.loadGraphData(JSON.parse(text))", saved)
    assert rows(page) == edited
    page.show(STACK)
    page.tab.wait_for_function("() => document.querySelector('.shira-number')?.value === '0.625'")
    page.clear()
    page.run(
        """async (address) => {
          const blob = await (await fetch(address)).blob();
          await app.handleFile(new File([blob], "picture.png", { type: "image/png" }));
        }""",
        f"/view?{urlencode(picture)}",
    )
    page.tab.wait_for_function(OPENED)
    assert rows(page) == edited
    page.show(STACK)
    page.tab.wait_for_selector(".shira-row")
    page.shoot("from_picture")


def saved_picture(server: Server, before: dict[str, Any]) -> dict[str, str] | None:
    """Return where the picture is that a run has saved which was not there before."""
    runs = [run for name, run in server.ask("/history").items() if name not in before]
    outputs = [output for run in runs for output in run["outputs"].values()]
    images = [image for output in outputs for image in output.get("images", [])]
    return next((image for image in images if image["type"] == "output"), None)


def open_template(page: Page, name: str) -> None:
    """Open one of our example workflows from the template browser, and look at our node."""
    page.run("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.tab.get_by_text(CLONE, exact=True).first.click()
    card = page.tab.get_by_test_id(f"template-workflow-{name}")
    card.locator("img").first.wait_for()
    page.tab.wait_for_timeout(500)
    page.shoot(f"templates_{name}")
    card.click()
    page.tab.wait_for_selector(".p-dialog", state="hidden")
    page.tab.wait_for_function(OPENED)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_open_from_the_template_browser(page: Page, name: str) -> None:
    open_template(page, name)
    broken = "() => app.graph.nodes.filter((node) => node.has_errors).map((node) => node.type)"
    assert page.run(broken) == []
    page.show(EXAMPLES[name])
    page.tab.locator(".shira-panel").first.wait_for()
    page.shoot(f"example_{name}")


def test_every_node_runs(page: Page, comfyui: Server, base: Path, adapters: Path) -> None:
    """One workflow with all nodes; it saves an adapter and bakes a checkpoint, too."""
    before = set(comfyui.ask("/history"))
    text = (hosts.ROOT / "workflows" / "tests" / "every-node.json").read_text("utf-8")
    page.run("(text) => app.loadGraphData(JSON.parse(text))", text)
    page.tab.wait_for_function(OPENED)
    page.tab.get_by_test_id("queue-button").click()

    def finished() -> dict[str, Any] | None:
        new = [run for name, run in comfyui.ask("/history").items() if name not in before]
        return new[0] if new else None

    run = comfyui.wait(finished, hosts.DRAW_SECONDS, "end of the workflow")
    baked = base / "output" / "checkpoints" / "test_00001_.safetensors"
    assert run["status"]["status_str"] == "success", run["status"]["messages"][-1]
    assert baked.stat().st_size > 1e9
    baked.unlink()
    (adapters / "saved by the test.shira").unlink()
    said = "\n".join(text for output in run["outputs"].values() for text in output.get("text", ()))
    for part in ("architecture: SD1.5", "applied in place", "wrote saved by the test", BAKED):
        assert part in said, said
    pictures = [len(output.get("images", ())) for output in run["outputs"].values()]
    assert sorted(pictures, reverse=True)[:3] == [2, 1, 1]  # the sweep's, the other, the heat map
    page.shoot("every_node")


@pytest.mark.parametrize("node", [LOADER, STACK])
def test_help_is_served_where_the_page_looks_for_it(comfyui: Server, node: str) -> None:
    shown = comfyui.fetch(f"/extensions/{CLONE}/docs/{node}.md").decode()
    assert shown == (hosts.ROOT / "comfyui_nodes/web/docs" / f"{node}.md").read_text("utf-8")


def test_words_of_four_languages_are_served(comfyui: Server) -> None:
    served = comfyui.ask("/i18n")
    for language in ("en", "zh", "ja", "ko"):
        for file, key in (("main.json", "shira"), ("nodeDefs.json", "nodeDefs")):
            ours = json.loads((hosts.ROOT / "locales" / language / file).read_text("utf-8"))
            assert served[language][key].items() >= (ours.get(key, ours)).items()

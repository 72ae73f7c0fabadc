"""Our part of a real WebUI's page, by mouse and keyboard; `WEBUI_DIR=... pytest` (see hosts.py).

Screenshots of each step are kept in pytest's temporary folder, `screens*`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hosts
import numpy as np
import pytest
import webui_hosts
from full_size import FullSize
from hosts import DRAW_SECONDS, Server
from PIL import Image
from webui_masks import check_inpainted, paint
from webui_page import WebUI, browsing_webui

pytestmark = hosts.needs("WEBUI_DIR")
STYLES = ("riso", "blueprint")
NASTY = "a<img src=x onerror=alert(1)>"
BROKEN = "broken"
SIZE, STEPS = 128, 4
LABELS = ("[SHiRA] adapter", "[SHiRA] alpha")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("webui")


@pytest.fixture(scope="module")
def adapters(data: Path) -> Path:
    """The shipped styles in full size, one with a nasty name, one that is cut short."""
    folder = data / "models" / "shira"
    folder.mkdir(parents=True)
    for style in STYLES:
        small = hosts.ROOT / "assets" / "adapters" / f"{style}.shira"
        command = ("reference", folder / small.name, "--adapter", small)
        subprocess.run([sys.executable, "-m", "shira_core.cli", *map(str, command)], check=True)
    shutil.copy(folder / "riso.shira", folder / f"{NASTY}.shira")
    (folder / f"{BROKEN}.shira").write_bytes((folder / "riso.shira").read_bytes()[:5000])
    return folder


@pytest.fixture(scope="module")
def server(full_size: FullSize, data: Path, adapters: Path) -> Iterator[Server]:
    with webui_hosts.serving(webui_hosts.checkout(), data, full_size.plain.parent, ()) as found:
        yield found


@pytest.fixture(scope="module")
def opened(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    with browsing_webui(server.url, tmp_path_factory.mktemp("screens")) as webui:
        yield webui


@pytest.fixture
def webui(opened: WebUI) -> WebUI:
    opened.choose_page("Generation")
    opened.clear()
    return opened


@pytest.fixture(scope="module")
def infotext(opened: WebUI) -> str:
    """The infotext of a picture with two rows and the trigger words of the first."""
    opened.choose_page("Generation")
    opened.clear()
    opened.add("riso.shira")
    opened.add("blueprint.shira")
    for _ in range(4):
        opened.ours("alpha").press("ArrowLeft")
    opened.ours("more", 1).click()
    opened.ours("te", 1).fill("-0.125")
    opened.ours("blocks", 1).fill("mid=0, in4=0.5")
    opened.ours("blocks", 1).press("Tab")
    opened.ours("word").click()
    opened.number("width", SIZE)
    opened.number("height", SIZE)
    opened.number("steps", STEPS)
    opened.page.shoot("before")
    found = opened.draw(DRAW_SECONDS)
    opened.page.shoot("picture")
    return found


def test_rows_words_and_readout(webui: WebUI) -> None:
    webui.add("riso.shira")
    webui.ours("alpha").press("ArrowLeft")
    webui.ours("number").fill("-3.125")
    webui.ours("number").press("Tab")
    webui.add("blueprint.shira")
    webui.readout().get_by_text("in common").wait_for()
    assert [(row["name"], row["alpha"]) for row in webui.rows()] == [
        ("riso.shira", -3.125),
        ("blueprint.shira", 1),
    ]
    webui.ours("word", 1).click()
    webui.ours("word", 0).click()
    webui.ours("word", 0).click()  # no second time
    assert webui.prompted() == "blueprint style, riso style"
    webui.ours("down").click()
    webui.ours("on").click()
    assert [(row["name"], row["on"]) for row in webui.rows()] == [
        ("blueprint.shira", False),
        ("riso.shira", True),
    ]
    webui.page.shoot("rows")


def test_errors_are_shown_and_names_are_no_html(webui: WebUI) -> None:
    webui.add(f"{BROKEN}.shira")
    webui.readout().locator(".shira-error").get_by_text("get it again").wait_for()
    webui.add("riso.shira")
    webui.add("riso.shira")
    webui.readout().locator(".shira-error").get_by_text("in several rows").wait_for()
    webui.clear()
    webui.add(f"{NASTY}.shira")
    webui.add("riso.shira")
    webui.readout().get_by_text(NASTY).wait_for()
    webui.choose_page("SHiRA")
    webui.card("riso").wait_for()
    said = webui.card(BROKEN).locator(".description").inner_text()
    assert said.startswith("it is no safetensors file"), said
    webui.prompt("a cat")
    webui.card(BROKEN).click()
    assert webui.prompted() == "a cat <shira:broken:1>"
    webui.page.shoot("cards")
    assert webui.tab.locator("img[src='x']").count() == 0


def test_the_infotext_says_rows_and_hashes(infotext: str) -> None:
    assert 'SHiRA: "<shira:riso:0.8> <shira:blueprint:1:te=-0.125:lbw=mid=0;in4=0.5>"' in infotext
    assert 'SHiRA hashes: "riso: ' in infotext
    assert "SHiRA error" not in infotext


def test_a_pasted_infotext_gives_the_rows_back(webui: WebUI, infotext: str) -> None:
    webui.prompt(infotext)
    webui.tab.click("#txt2img_tools #paste")
    webui.wait_for_rows(2)
    first, second = webui.rows()
    assert first.pop("hash") != second.pop("hash")
    usual = {"on": True, "alpha_te": None, "blocks": "", "start": 0, "stop": 1}
    changed = {"alpha_te": -0.125, "blocks": "mid=0, in4=0.5"}
    assert first == {**usual, "name": "riso.shira", "alpha": 0.8}
    assert second == {**usual, "name": "blueprint.shira", "alpha": 1, **changed}
    assert webui.prompted() == "riso style"
    webui.page.shoot("pasted")


def test_pasting_warns_of_another_file(webui: WebUI, infotext: str, adapters: Path) -> None:
    file = adapters / "riso.shira"
    content = file.read_bytes()
    try:
        file.write_bytes((adapters / "blueprint.shira").read_bytes())
        webui.prompt(infotext)
        webui.tab.click("#txt2img_tools #paste")
        webui.readout().get_by_text("riso.shira is not the file of that picture").wait_for()
    finally:
        file.write_bytes(content)


def test_cards_add_tags_are_found_and_edited(webui: WebUI, infotext: str, adapters: Path) -> None:
    webui.choose_page("SHiRA")
    webui.card("riso").click()
    assert webui.prompted().strip() == "<shira:riso:1> riso style"
    webui.card("riso").click()  # takes it out again
    assert not webui.prompted().strip()
    webui.tab.fill("#txt2img_shira_extra_search", "blueprint style")
    webui.card("riso").wait_for(state="hidden")
    assert webui.card("blueprint").is_visible()
    webui.tab.fill("#txt2img_shira_extra_search", "")

    webui.card("riso").hover()
    webui.card("riso").locator(".edit-button").click()
    editor = webui.tab.locator(".global-popup")
    editor.get_by_label("Activation text").fill("ink, paper")
    editor.get_by_label("Notes").fill('<b>"mine"</b>')
    editor.get_by_role("button", name="Replace preview").click()
    preview = adapters / "riso.preview.png"
    webui.tab.wait_for_timeout(3000)
    webui.page.shoot("editor")
    assert preview.is_file()
    editor.get_by_role("button", name="Save").click()
    editor.wait_for(state="hidden")
    webui.tab.wait_for_timeout(1500)
    noted = json.loads((adapters / "riso.json").read_text("utf-8"))
    assert noted["activation text"] == "ink, paper"
    assert noted["notes"] == '<b>"mine"</b>'
    webui.card("riso").click()
    assert webui.prompted().strip() == "<shira:riso:1> ink, paper"
    (adapters / "riso.json").unlink()


def test_a_stack_is_saved_loaded_and_deleted(webui: WebUI, adapters: Path) -> None:
    webui.add("blueprint.shira")
    webui.ours("alpha").press("ArrowRight")
    saved = webui.rows()
    choice = webui.tab.locator("#shira_txt2img_preset input")
    said = webui.tab.locator("#shira_txt2img_said")
    choice.fill("Größe \u732b")
    choice.press("Enter")
    webui.tab.click("#shira_txt2img_save")
    said.get_by_text("is saved").wait_for()
    assert json.loads((adapters / "presets" / "Größe \u732b.json").read_text("utf-8")) == saved
    webui.clear()
    webui.tab.click("#shira_txt2img_load")
    webui.wait_for_rows(1)
    assert webui.rows() == saved
    webui.page.shoot("saved")
    webui.tab.click("#shira_txt2img_delete")
    said.get_by_text("is deleted").wait_for()
    assert not list((adapters / "presets").iterdir())


def test_other_programs_list_files_and_send_rows(server: Server) -> None:
    listed = {each["name"]: each for each in server.ask("/shira/v1/adapters")}
    assert set(listed) == {f"{name}.shira" for name in (*STYLES, NASTY, BROKEN)}
    assert listed["riso.shira"]["words"] == ["riso style"]
    assert "get it again" in listed["broken.shira"]["error"]
    for rows in ([{"name": "riso", "alpha": 0.5}], "riso: 0.5"):
        assert draw(server, rows, {})["extra_generation_params"]["SHiRA"] == "<shira:riso:0.5>"
    for rows, error in (("broken", "get it again"), ([{"name": "riso", "alpha": "x"}], "0.8")):
        assert error in draw(server, rows, {})["extra_generation_params"]["SHiRA error"]


def test_hires_image_to_image_and_inpaint(webui: WebUI, data: Path) -> None:
    webui.add("riso.shira")
    webui.prompt("cat <shira:blueprint:0.5>")
    small(webui)
    webui.tab.click("#txt2img_hr .label-wrap")
    webui.number("hires_steps", 1)
    found = webui.draw(DRAW_SECONDS)
    webui.tab.click("#txt2img_hr .label-wrap")
    assert "Hires upscale: 2" in found
    check_both(found)
    webui.send_to("img2img")
    webui.wait_for_rows(1)
    check_both(webui.draw(DRAW_SECONDS))
    webui.page.shoot("img2img")
    before = newest(data)
    webui.send_to("inpaint")
    webui.wait_for_rows(1)
    webui.ours("number").fill("0.5")
    webui.ours("number").press("Tab")
    painted = paint(webui.tab, "#img2maskimg")
    webui.page.shoot("painted")
    found = webui.draw(DRAW_SECONDS)
    webui.page.shoot("inpaint")
    webui.turn_to("txt2img")
    assert 'SHiRA: "<shira:riso:0.5>"' in found
    assert "Mask blur: 4" in found
    check_inpainted(before, newest(data), painted)


def test_axes_vary_the_first_row(webui: WebUI, data: Path) -> None:
    webui.add("riso.shira")
    webui.ours("more").click()
    webui.ours("blocks").fill("mid=0")
    webui.ours("blocks").press("Tab")
    webui.add(f"{NASTY}.shira")
    webui.prompt("cat")
    small(webui)
    webui.choose("Script", "X/Y/Z plot")
    webui.choose("X type", LABELS[0])
    webui.choose("X values", *STYLES)
    webui.choose("Y type", LABELS[1])
    webui.tab.fill("#script_txt2img_xyz_plot_y_values textarea", "0.25, 1")
    before = saved(data)
    webui.draw(DRAW_SECONDS)
    webui.page.shoot("axes")
    webui.choose("Script", "None")
    found = {re.findall(r'SHiRA: "<shira:(\S+)> <shira:', text)[0] for text in saved(data) - before}
    assert found == {f"{name}:{number}:lbw=mid=0" for name in STYLES for number in ("0.25", "1")}


def small(webui: WebUI) -> None:
    """Have the tab draw as little as it can."""
    for name, value in (("width", 64), ("height", 64), ("steps", 1)):
        webui.number(name, value)


def check_both(infotext: str) -> None:
    """Fail unless a picture was drawn with the row and the tag."""
    assert 'SHiRA: "<shira:riso:1>"' in infotext
    assert re.search(r'SHiRA hashes: ".*riso: .*blueprint: |.*blueprint: .*riso: ', infotext)
    assert "SHiRA error" not in infotext


def newest(data: Path) -> np.ndarray:
    """Return the last picture of img2img, uint8 (height, width, 3)."""
    paths = data.rglob("outputs/img2img-images/**/*.png")
    return np.asarray(Image.open(max(paths, key=lambda path: path.stat().st_mtime)).convert("RGB"))


def saved(data: Path) -> set[str]:
    """Return the infotexts of all pictures that the WebUI has saved, grids left out."""
    return {Image.open(path).info["parameters"] for path in data.rglob("outputs/*-images/**/*.png")}


def draw(server: Server, rows: object, more: dict[str, Any]) -> dict[str, Any]:
    """Draw with rows of the API; return what the WebUI says of the pictures."""
    size = {"prompt": "cat", "steps": 1, "width": 64, "height": 64}
    ours = {"alwayson_scripts": {"SHiRA": {"args": [rows]}}}
    answer = server.ask("/sdapi/v1/txt2img", {**size, **ours, **more}, DRAW_SECONDS)
    told: dict[str, Any] = json.loads(answer["info"])
    return told

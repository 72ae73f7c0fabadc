"""More of the trainer's page in a browser: plug-ins, many pictures, sharing; one server for all."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from picture_files import picture
from safetensors.torch import load_file, save_file
from trainer_page import ROOT, TRAIN_MS, Page, Served, browsing, serve

pytest.importorskip("gradio")
pytest.importorskip("huggingface_hub")

from hub_server import TOKEN, Hub, serving

import shira_core as shira
from trainer_ui import library
from trainer_ui.app.drawing import GRID, Request
from trainer_ui.jobs import Store

MANY = 1200
TITLE = "<img src=x onerror=alert(1)> riso"
PLUGIN = """
import time
def caption(path):
    time.sleep(1)
    return f'<b>{path.stem}</b> by a program'
"""
POINTS = "[shira.captioners]\nnamer = namer_plugin:caption\n"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("more")
    home, site = place / "home", place / "site"
    first = picture(home / "datasets" / "many" / "00000.png", text="a cat")
    for number in range(1, MANY):
        copy = first.with_stem(f"{number:05}")
        os.link(first, copy)
        copy.with_suffix(".txt").write_text(f"cat {number}", encoding="utf-8")
    for name in "ab":
        picture(home / "datasets" / "bare" / f"{name}.png", (512, 512))
    shutil.copytree(ROOT / "assets" / "base", home / "base")
    _install(site)
    _finished_job(home)
    more = {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "HF_ENDPOINT": hub.address}
    found = serve((home,), place / "log.txt", HF_HUB_DISABLE_XET="1", **more)
    yield found
    found.kill()
    assert not found.blocked


def _install(site: Path) -> None:
    """Install a captioner, as a package of others does."""
    (site / "namer-1.dist-info").mkdir(parents=True)
    (site / "namer_plugin.py").write_text(PLUGIN)
    (site / "namer-1.dist-info" / "METADATA").write_text("Name: namer\nVersion: 1\n")
    (site / "namer-1.dist-info" / "entry_points.txt").write_text(POINTS)


def _finished_job(home: Path) -> None:
    """Leave what a training and a comparison of its adapter leave."""
    out = home / "adapters" / "riso.shira"
    values = {"base": home / "base", "images": home / "datasets" / "bare", "out": out}
    out.parent.mkdir(parents=True)
    shutil.copy(ROOT / "assets" / "adapters" / "riso.shira", out)
    library.finish(out, ["riso"], title=TITLE)
    store = Store(home / "trainer" / "jobs.sqlite")
    job = store.add("riso", "".join(f'{k} = "{v}"\n' for k, v in values.items()) + 'trigger = "x"')
    job = store.set_state(job.id, "running")
    job.run_folder.mkdir()
    done = {"event": "done", "time": time.time(), "path": str(out), "steps": 4, "seconds": 1.0}
    (job.run_folder / "events.jsonl").write_text(json.dumps(done) + "\n")
    store.set_state(job.id, "done")
    grid = job.run_folder / GRID
    request = Request(str(job.config), (str(out),), (1.0,), ("a <i>fox</i>",), str(grid))
    request.save(grid.with_suffix(".json"))
    for path in (grid, *(each.path for each in request.cells)):
        picture(path, color="blue")


@pytest.fixture
def page(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("screens")) as found:
        found.open(served.url)
        yield found
        assert not found.errors
        assert not found.outside


def test_captions_by_a_program_that_is_installed(page: Page, served: Served) -> None:
    page.choose("set-images", "bare")
    page.tab.locator("#gallery figure").nth(1).wait_for()
    page.unfold("Change many captions")
    page.choose("captioner", "namer")
    page.tab.click("#caption")
    left = re.compile(r"captioning, \d+ s left")
    page.tab.locator("#edit-preview").get_by_text(left).wait_for()
    page.tab.locator("#edit-preview [role=progressbar]").wait_for()
    page.wait_for_text("#edit-preview", "2 captions would change")
    page.wait_for_text("#edit-preview", "<b>a</b> by a program")
    page.shoot("captioner")
    page.tab.click("#apply-edit")
    page.wait_for_text("#edit-preview", "2 captions are changed")
    written = served.roots[0] / "datasets" / "bare" / "b.txt"
    assert written.read_text() == "<b>b</b> by a program"


def test_many_pictures_and_a_plan_leave_the_page_quick(page: Page, served: Served) -> None:
    """The server's watch on its event loop is read when it ends."""
    page.choose("set-images", "many")
    page.tab.locator("#gallery figure").nth(20).wait_for()
    page.tab.get_by_role("button", name="the next page").click()
    page.wait_for_text("#gallery", "page 2 of 50")
    page.unfold("Change many captions")
    page.fill("prepend-words", "ink")
    page.tab.click("#prepend")
    page.wait_for_text("#edit-preview", f"{MANY} captions would change")
    page.go("Model & mask")
    page.choose("set-base", "base")  # in the process beside the page
    page.go("Dataset")
    page.tab.click("#apply-edit")
    page.wait_for_text("#edit-preview", f"{MANY} captions are changed", TRAIN_MS)
    folder = served.roots[0] / "datasets" / "many"
    assert (folder / "00007.txt").read_text() == "ink, cat 7"
    page.tab.click("#undo-edit")
    page.wait_for_text("#edit-preview", f"{MANY} captions are as before", TRAIN_MS)
    assert (folder / "00007.txt").read_text() == "cat 7"
    page.go("Model & mask")
    page.wait_for_text("#counts", "2.00%", TRAIN_MS)
    page.wait_for_text("#plan", "GPU memory", TRAIN_MS)
    page.fill("density", "10")  # the slider's own field
    page.wait_for_text("#counts", "10.00%")
    page.unfold("Which entries are trained")
    page.fill("set-block_density", "midd=0.1")
    page.wait_for_text("#counts", "did you mean mid")


# What has the focus, by a number of its own; None: nothing has it.
FOCUSED = """() => {
  const found = document.activeElement;
  if (found === document.body) return null;
  if (!window.walked.includes(found)) window.walked.push(found);
  return { number: window.walked.indexOf(found), folded: found.matches(".label-wrap:not(.open)") };
}"""
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 100)))"
# What can be used on the page by mouse and was not walked to. Arrow keys go from radio to radio;
# a copy of the tabs' names, for their widths, is hidden behind them.
MISSED = """() => [...document.querySelectorAll("button, input, textarea, select, a[href]")]
  .filter((each) => each.checkVisibility({ visibilityProperty: true, opacityProperty: true }))
  .filter((each) => !each.disabled && !["file", "radio"].includes(each.type))
  .filter((each) => !each.closest("[aria-hidden=true], .tab-container.visually-hidden"))
  .filter((each) => !window.walked.includes(each))
  .map((each) => each.outerHTML.slice(0, 200))"""


def test_every_control_is_reached_and_left_by_keyboard(page: Page) -> None:
    """Tab alone walks from the first control to the end; Enter unfolds what it comes by."""
    page.choose("set-images", "bare")
    page.go("Model & mask")
    page.choose("set-base", "base")
    page.tab.locator("#mask-picture img").wait_for()
    for tab in ("Dataset", "Model & mask", "Training", "After training", "Library"):
        page.go(tab)
        page.root.get_by_role("tab", name="Dataset", exact=True).focus()
        _walk(page)
        assert page.tab.evaluate(MISSED) == [], tab


def _walk(page: Page) -> None:
    """Press Tab until nothing has the focus any more."""
    page.tab.evaluate("window.walked = []")
    walked = set[int]()
    while focused := page.tab.evaluate(FOCUSED):
        assert focused["number"] not in walked, "it walks in a circle"
        walked.add(focused["number"])
        if focused["folded"]:
            page.tab.keyboard.press("Enter")
            page.tab.wait_for_function("document.activeElement.matches('.open')")
            page.tab.evaluate(DRAWN)
        page.tab.keyboard.press("Tab")


def test_adapters_are_baked_into_a_checkpoint(page: Page, served: Served) -> None:
    adapter = shira.load(served.roots[0] / "adapters" / "riso.shira")
    base = served.roots[0] / "zeros.safetensors"
    save_file({n: torch.zeros(adapter.weights.shape(n)) for n in adapter.weights}, base)
    page.go("Library")
    page.tab.locator("#cards button").filter(has_text="riso").click()
    page.unfold("Mix and bake")
    page.wait_for_value("mix-alphas", "1")
    page.fill("mix-alphas", "0.5")
    page.fill("mix-name", "with riso")
    page.tab.click("#bake")
    page.tab.get_by_text("a checkpoint to bake them into").last.wait_for()
    page.fill("bake-base", str(base))
    page.tab.click("#bake")
    page.wait_for_text("#mixed", "Baked: home/with riso.safetensors")
    baked = load_file(base.with_stem("with riso"))
    assert all(torch.equal(baked[n], 0.5 * adapter.weights[n].dense()) for n in adapter.weights)
    page.tab.click("#bake")
    page.tab.get_by_text("exists: choose another name", exact=False).wait_for()
    assert page.tab.get_by_text("--overwrite").count() == 0


def test_an_adapter_is_shared(page: Page, served: Served, hub: Hub) -> None:
    (home,) = served.roots
    page.go("After training")
    page.tab.locator("#after-grid img").wait_for()  # drawn before this server was started
    page.fill("share-repository", "me/riso")
    page.fill("share-about", "Two <b>inks</b>.")
    page.choose("share-licence", "apache-2.0")
    page.choose("share-pictures", "fox")
    page.tab.click("#share-build")
    page.wait_for_text("#share-built", "The licence of the base holds, too")
    assert page.tab.locator("#share-built img, #share-built pre b").count() == 0
    card = (home / "shared" / "riso" / "README.md").read_text(encoding="utf-8")
    assert page.tab.locator("#share-built pre").inner_text().split() == card.split()
    assert "fox" in card
    assert "publish" in page.field("share-command").input_value()
    page.tab.click("#share-push")
    page.tab.get_by_text("no token: type one").wait_for()
    page.fill("share-token", TOKEN)
    page.shoot("share")
    page.tab.click("#share-push")
    page.wait_for_text("#share-said", "It is there")
    page.wait_for_value("share-token", "")
    assert set(hub.repositories["me/riso"].files) >= {"README.md", "riso.shira"}
    kept = [path for path in home.rglob("*") if path.is_file()]
    assert not [path for path in (*kept, served.log) if TOKEN.encode() in path.read_bytes()]

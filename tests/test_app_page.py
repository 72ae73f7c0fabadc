"""The trainer's page from an empty folder to a finished adapter, by mouse and keyboard.

Screenshots of each step are kept in pytest's temporary folder, `screens*`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image
from trainer_page import (
    ROOT,
    TRAIN_MS,
    Page,
    Served,
    browsing,
    copy_to_host,
    resume,
    serve,
    stop,
)

import shira_core as shira

pytest.importorskip("gradio")

NASTY = "a<img src=x onerror=alert(1)>${1+1}{{x}}.png"
STEPS = 90


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Folders as a person has them: pictures, a base, a host's models."""
    home, models = (tmp_path_factory.mktemp(name) for name in ("home", "models"))
    shutil.copytree(ROOT / "assets" / "samples" / "contrast", home / "datasets" / "contrast")
    shutil.copy(home / "datasets" / "contrast" / "owl.png", home / "datasets" / "contrast" / NASTY)
    shutil.copytree(ROOT / "assets" / "base", models / "bases" / "compact")
    (models / "shira").mkdir()
    shutil.copy(ROOT / "assets" / "adapters" / "riso.shira", models / "shira")
    return home, models


@pytest.fixture
def served(roots: tuple[Path, ...], tmp_path: Path) -> Iterator[Served]:
    found = serve(roots, tmp_path / "log.txt")
    yield found
    found.kill()


def test_from_pictures_to_an_adapter(
    served: Served, tmp_path_factory: pytest.TempPathFactory
) -> None:
    screens, (home, models) = tmp_path_factory.mktemp("screens"), served.roots
    with browsing(screens) as page:
        page.open(served.url)
        _pictures(page, home)
        _model(page)
        _start(page)
        page.wait_for_text("#samples", "step 15", TRAIN_MS)
        page.tab.locator("#chart svg polyline.loss").wait_for()
        page.shoot("training")
        assert not page.outside
        assert not page.errors
        (engine,) = _engines(home)
        engine.suspend()  # or it is done before a slow machine has started the server again
        served.kill()
        page.wait_for_text("#gone", "Start it again")
        page.shoot("gone")
        again = serve(served.roots, served.log, served.port)
        page.tab.locator("#gone").wait_for(state="detached")  # it loads itself again
        page.wait_until_filled()
    again.kill()  # now the page and its server are gone, the run is not
    again = serve(served.roots, served.log)
    try:
        with browsing(screens) as page:
            page.open(again.url)
            page.wait_for_value("set-trigger", "contrast style")
            page.go("Training")
            page.wait_for_text("#job-head", "ink")
            page.wait_for_text("#jobs .state", "running")
            engine.resume()
            stop(page)
            resume(page)
            page.wait_for_text("#jobs .state", "done", TRAIN_MS)
            page.shoot("done")
            _finish(page)
            _library(page)
            assert not page.outside
            assert not page.errors
            assert again.interrupt() == 0  # with the page open
            assert "Traceback" not in again.log.read_text(encoding="utf-8")
    finally:
        again.kill()
        for left in _engines(home):  # of a test that has failed
            left.kill()
    _check(home, models)
    assert not served.blocked


def _pictures(page: Page, home: Path) -> None:
    page.choose("set-images", "contrast")
    page.tab.locator("#gallery figure").nth(16).wait_for()
    page.fill("set-trigger", "contrast style")
    page.tab.get_by_label("caption of banana.png").fill("banana, bent")
    page.tab.get_by_label("caption of banana.png").press("Tab")
    page.wait_for_text("#caption-saved", "banana.png is saved")
    assert (home / "datasets" / "contrast" / "banana.txt").read_text("utf-8") == "banana, bent"
    page.wait_for_text("#gallery", NASTY)
    page.wait_for_text("#gallery", "duplicate")
    page.shoot("dataset")


def _model(page: Page) -> None:
    page.go("Model & mask")
    page.choose("set-base", "compact")
    page.wait_for_text("#base-found", "SD1.5")
    page.tab.locator("#mask-picture img").wait_for()
    page.choose("set-mask", "rand")
    page.wait_for_text("#mask-explained", "at random")
    page.fill("set-density", "0.1")
    page.wait_for_text("#counts", "10.00%")
    page.wait_for_text("#plan", "not timed yet")
    page.tab.click("#time-steps")
    page.wait_for_text("#timing", "trained on noise")
    told = page.tab.locator("#plan", has_text="GPU memory")
    told.filter(has_not_text="not timed").wait_for(timeout=TRAIN_MS)
    assert not page.tab.inner_text("#timing").strip()
    page.shoot("model")


def _start(page: Page) -> None:
    page.go("Training")
    page.fill("set-steps", "0")
    page.wait_for_text("#said", "steps")
    for name, text in (
        *(("out", "ink"), ("steps", str(STEPS)), ("lr", "0.002"), ("batch_size", "4")),
        *(("sample_every", "15"), ("save_every", "30"), ("sample_prompts", "cat\nhouse")),
    ):
        page.fill(f"set-{name}", text)
    page.unfold("What a run writes")
    page.fill("set-sample_steps", "4")
    page.fill("set-checkpoint_every", "5")
    page.unfold("What a run writes")
    page.wait_for_text("#said", "Everything is set")
    page.tab.click("#start")
    page.wait_for_text("#jobs", "ink")


def _finish(page: Page) -> None:
    page.go("After training")
    page.tab.locator("#kept label").nth(1).wait_for()
    page.fill("after-prompts", "cat")
    page.tab.click("#after-draw")
    page.tab.locator("#after-grid img").wait_for(timeout=TRAIN_MS)
    page.shoot("compare")
    page.fill("finish-title", "Ink <b>drawings</b>")
    page.fill("finish-triggers", "contrast style, ink")
    page.choose("finish-picture", "alpha 1")
    page.tab.click("#finish")
    page.wait_for_text("#after-said", "is written")
    copy_to_host(page)


def _library(page: Page) -> None:
    page.go("Library")
    ours = page.tab.locator("#cards button").filter(has_text="shira/ink.shira")
    ours.click()
    page.wait_for_text("#details", "contrast style, ink")
    page.tab.locator("#cards button").filter(has_text="riso").click()
    page.wait_for_text("#details", "riso.shira")
    page.unfold("Compare")
    page.tab.click("#compare")
    page.wait_for_text("#compared", "overlap", TRAIN_MS)
    page.unfold("Mix and bake")
    page.fill("mix-alphas", "0.8 0.5")
    page.fill("mix-name", "mixed")
    page.tab.click("#mix")
    page.wait_for_text("#mixed", "Mixed")
    page.shoot("library")


def _check(home: Path, models: Path) -> None:
    """The files are what the page said, read without it."""
    finished = shira.load(models / "shira" / "ink.shira")
    assert finished.header.triggers == ("contrast style", "ink")
    assert finished.header.title == "Ink <b>drawings</b>"
    assert finished.header.mask == "rand"
    assert finished.header.training["steps"] == STEPS
    weights = shira.load(home / "adapters" / "ink.shira").weights
    assert set(weights) == set(finished.weights)
    parts = [
        (shira.load(models / "shira" / f"{name}.shira"), alpha)
        for name, alpha in (("ink", 0.8), ("riso", 0.5))
    ]
    mixed = shira.load(home / "adapters" / "mixed.shira")
    assert mixed.entries == shira.mix(parts, mode="sum").entries
    drawn = sorted((home / "adapters" / "ink.run" / "samples").glob("*.png"))
    assert [path.stem for path in drawn] == [f"step-{n:06}" for n in range(15, 91, 15)]
    assert all(Image.open(path).getextrema() != ((255, 255),) * 3 for path in drawn)


def _engines(home: Path) -> list[psutil.Process]:
    """Return the processes that train for an app of this folder."""
    found = psutil.process_iter(["cmdline"])
    return [
        p
        for p in found
        if "trainer_ui.engine" in (p.info["cmdline"] or ())
        and str(home) in " ".join(p.info["cmdline"])
    ]

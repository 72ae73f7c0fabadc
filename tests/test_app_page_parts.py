"""What the trainer's page is made of, without a browser: who may use it, files, settings, chart."""

from __future__ import annotations

import asyncio
import math
import shutil
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("gradio")

from trainer_page import ROOT

from shira_core.errors import FileExists, FileInvalid, InvalidValue, WriteFailed
from trainer_ui.app import dataset_tab, fields, images, places, queue, running
from trainer_ui.app.chart import chart, limits, smoothed, thinned
from trainer_ui.app.desk import Desk, open_desk
from trainer_ui.app.form import Form
from trainer_ui.app.guard import Guard
from trainer_ui.app.server import serve
from trainer_ui.app.training_tab import TrainingTab
from trainer_ui.engine import presets
from trainer_ui.engine.config import Config, dump, load
from trainer_ui.roots import Roots

TOKEN = "s3cret"
HOST = {"host": "127.0.0.1:7870"}
CROSS = {"sec-fetch-site": "cross-site"}
AWAY = {"host": "trainer.example:7870"}


@pytest.mark.parametrize(
    ("token", "headers", "query", "status"),
    [
        ("", HOST, "", 200),
        ("", {"host": "localhost"}, "", 200),
        ("", {"host": "[::1]:7870"}, "", 200),
        ("", AWAY, "", 403),  # another site's name that leads here
        ("", {}, "", 403),
        ("", {**HOST, "origin": "http://127.0.0.1:7870"}, "", 200),
        ("", {**HOST, "origin": "https://evil.example"}, "", 403),
        ("", {**HOST, "origin": "null"}, "", 403),
        ("", {**HOST, **CROSS, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, "", 403),
        ("", {**HOST, **CROSS, "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, "", 403),
        (
            "",
            {**HOST, **CROSS, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
            "",
            200,
        ),
        ("", {**HOST, "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, "", 200),
        ("", HOST, "token=", 200),
        (TOKEN, HOST, "", 403),
        (TOKEN, AWAY, "token=wrong", 403),
        (TOKEN, AWAY, f"token={TOKEN}", 303),
        (TOKEN, {**AWAY, "cookie": f"a=b; shira_token={TOKEN}"}, "", 200),
        (TOKEN, {**AWAY, "cookie": "shira_token="}, "", 403),
        (TOKEN, {**AWAY, "cookie": f"shira_token={TOKEN}", "origin": "http://evil"}, "", 403),
        (TOKEN, {**AWAY, "x-shira-token": TOKEN, "origin": "http://webui"}, "", 200),
        (TOKEN, {**AWAY, "x-shira-token": "\xe9"}, "", 403),
    ],
)
def test_who_may_use_it(token: str, headers: dict[str, str], query: str, status: int) -> None:
    sent = _asked(token, headers, query)
    assert sent[0]["status"] == status
    cookies = [value for name, value in sent[0]["headers"] if name == b"set-cookie"]
    assert len(cookies) == (status == 303)
    assert all(b"HttpOnly" in each and b"SameSite=Strict" in each for each in cookies)


def _asked(token: str, headers: dict[str, str], query: str) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": "http", "headers": raw, "query_string": query.encode(), "path": "/"}
    asyncio.run(Guard(app, token)(scope, None, send))
    return sent


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    home = tmp_path / "home"
    shutil.copytree(ROOT / "assets" / "samples" / "contrast", home / "pictures")
    shutil.copytree(ROOT / "assets" / "base", home / "base")
    shutil.copy(ROOT / "assets" / "adapters" / "riso.shira", home)
    (tmp_path / "outside.png").write_bytes((home / "pictures" / "owl.png").read_bytes())
    (home / "link.png").symlink_to(tmp_path / "outside.png")
    (home / "secret.txt").write_text("x", encoding="utf-8")
    found = open_desk([home])
    yield found
    found.runner.close()


@pytest.mark.parametrize(
    ("route", "path", "status", "kind"),
    [
        ("picture", "home/pictures/owl.png", 200, "image/png"),
        ("picture", "home/pictures/owl.png&small=1", 200, "image/jpeg"),
        ("preview", "home/riso.shira", 200, "image/jpeg"),
        ("download", "home/riso.shira", 200, "application/octet-stream"),
        ("picture", "home/gone.png", 404, "text/plain"),
        ("picture", "home/pictures", 404, "text/plain"),
        ("download", "home/gone.shira", 404, "text/plain"),
        ("picture", "home/../outside.png", 404, "text/plain"),
        ("picture", "/etc/passwd", 404, "text/plain"),
        ("picture", "home/link.png", 404, "text/plain"),
        ("picture", "home/secret.txt", 404, "text/plain"),
        ("picture", "home/pictures/owl.txt&small=1", 404, "text/plain"),
        ("preview", "home/pictures/owl.png", 404, "text/plain"),
        ("download", "home/secret.txt", 404, "text/plain"),
        ("download", "home/trainer/jobs.sqlite", 404, "text/plain"),
    ],
)
def test_only_pictures_and_adapters_of_the_roots_are_served(
    desk: Desk, route: str, path: str, status: int, kind: str
) -> None:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    app = FastAPI()
    images.add(app, desk.roots)
    name, _, more = path.partition("&")
    answer = TestClient(app).get(f"/{route}?path={quote(name)}&{more}")
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith(kind)
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_folders_of_hosts_are_offered_and_never_the_trainers_own(tmp_path: Path) -> None:
    for name in ("home/shira", "ComfyUI/models/shira", "webui/models/shira", "more/shira"):
        (tmp_path / name).mkdir(parents=True)
    names = ("home/shira", "ComfyUI", "webui/models", "more/shira")
    found = places.host_folders(Roots([tmp_path / name for name in names]))
    assert sorted(label for label, _ in found) == [
        "ComfyUI/models/shira",
        "models/shira",
        "shira (2)",
    ]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *((" ink 2 ", "ink 2"), ("über.shira", "über.shira"), ("con fusion", "con fusion")),
        *(
            (text, None)
            for text in ("", " ", ".hidden", "..", "a/b", "a\\b", "c:a", "a\0b", "a\nb")
        ),
        *((text, None) for text in ("ends.", "CON", "nul.shira", "Com1", "<b>", 'a"b', "a?")),
    ],
)
def test_names_of_files_are_those_of_every_system(text: str, name: str | None) -> None:
    if name is None:
        with pytest.raises(InvalidValue, match="no name for a file"):
            places.file_name(text)
    else:
        assert places.file_name(text) == name


def test_what_cannot_start_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(InvalidValue, match="another --port"):
            serve("127.0.0.1", taken.getsockname()[1], [tmp_path / "home"])
        assert not (tmp_path / "home").exists()
    (tmp_path / "file").touch()
    with pytest.raises(WriteFailed, match="another folder with --root"):
        open_desk([tmp_path / "file"])
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "jobs.sqlite").write_bytes(b"no database" * 99)
    with pytest.raises(FileInvalid, match="damaged"):
        open_desk([tmp_path])


PLACES = {"base": "base", "images": "pictures", "out": "out.shira"}


@pytest.mark.parametrize(
    "given",
    [
        {},
        *({**presets.read(name)} for name in presets.names()),
        {"mask": "struct", "axis": "both", "diagonal": False, "rank": 4, "debiased": True},
        {"sample_alphas": (0.5, 1.0), "block_density": ("mid=0.05", "in1=0"), "dora": True},
        {"sample_prompts": ("a cat, sitting", "a house"), "seed": 5, "resolution": 128},
    ],
)
def test_settings_survive_the_page(given: dict[str, Any]) -> None:
    """What the components hold gives the settings that the engine would have read itself."""
    wanted = load(None, {**PLACES, **given})
    shown = fields.form_values({**PLACES, **given})
    assert load(None, fields.settings(shown)) == wanted
    assert fields.kept_values(shown) == shown


def test_every_setting_is_on_the_page(desk: Desk) -> None:
    import gradio as gr

    from trainer_ui.app.page import build

    page = build(desk)
    found = {
        block.elem_id
        for block in page.blocks.values()
        if isinstance(block, gr.components.Component)
    }
    calls = {"resume", "overwrite"}
    assert {f"set-{name}" for name in Config.model_fields if name not in calls} <= found


def test_problems_are_told_and_paths_stay_below_the_roots(desk: Desk, tmp_path: Path) -> None:
    values = fields.form_values({"base": "home/base", "images": "home/pictures", "out": "ink"})
    config = desk.config(values)
    assert config.out == desk.home / "adapters" / "ink.shira"
    assert desk.problem(values) == ""
    for wrong, words in (
        ({"base": ""}, "fill in base"),
        ({"steps": 0}, "steps"),
        ({"lr": 2}, "lr"),
        ({"images": str(tmp_path)}, "outside"),
        ({"out": "../ink.shira"}, ".."),
        ({"mask": "wm", "axis": "rows"}, "axis"),
    ):
        assert words in desk.problem({**values, **wrong})


@pytest.mark.parametrize(
    ("images", "base", "shown"),
    [
        ("home/pictures", "home/base", 16),
        ("home/pictures", "gone", 16),
        ("", "", 0),
        ("home", "", 0),  # only a link out of it
        ("../outside.png", "", 0),
    ],
)
def test_the_gallery_begins_with_what_was_on_the_page(
    desk: Desk, images: str, base: str, shown: int
) -> None:
    desk.draft.write(fields.form_values({"images": images, "base": base}))
    first = dataset_tab.kept(desk)
    assert len(first["items"]) == shown
    assert not [item for item in first["items"] if base == "home/base" and item["problems"]]
    if shown:
        path = desk.place("images", images)
        assert not desk.folders.has(path)
        desk.folders.open(path, desk.roots).rule = desk.rule(base, {})
        again = dataset_tab.kept(desk)
        assert [item["name"] for item in again["items"]] == [i["name"] for i in first["items"]]


def test_start_queues_what_the_page_says_once(desk: Desk) -> None:
    desk.runner.close()  # nothing is to be trained here
    form = Form(desk, None)
    tab = TrainingTab(desk, form, None)
    values = fields.form_values({"base": "home/base", "images": "home/pictures", "out": "ink"})
    given = [values[name] for name in fields.NAMES]
    id, _ = tab.add(*given)
    job = desk.store.get(id)
    assert (job.name, job.state) == ("ink", "queued")
    assert job.toml == dump(desk.config(values))
    job.out.write_bytes(b"there")
    with pytest.raises(FileExists, match="exists"):
        tab.add(*given)
    tab.write_toml(*given)
    loaded = form.from_file(str(desk.home / "trainer" / "ink.toml"), *given)
    read = dict(zip(fields.NAMES, (each["value"] for each in loaded), strict=True))
    assert desk.config(read) == desk.config(values)
    preset = form.with_preset("low-memory", *given)
    read = dict(zip(fields.NAMES, (each["value"] for each in preset), strict=True))
    chosen = desk.config(read)
    assert {n: getattr(chosen, n) for n in presets.read("low-memory")} == presets.read("low-memory")
    form.keep(*given)
    assert fields.kept_values(desk.draft.read()) == values
    old = {"steps": "many", "mask": "best", "flip": "yes", "trigger": 5, "gone": 1, "lr": None}
    assert fields.kept_values(old) == {"lr": None}


def test_the_chart_shows_numbers() -> None:
    points = [(step, 1 / step) for step in range(1, 2001)]
    share = 0.9
    weights = [share**back for back in range(100)]
    by_hand = sum(w * 1 / (100 - b) for b, w in enumerate(weights)) / sum(weights)
    assert smoothed(points[:100], share)[-1][1] == pytest.approx(by_hand)
    assert smoothed(points, 0) == points
    few = thinned(points)
    assert len(few) <= 400
    assert few[-1] == points[-1]
    low, high = limits([0.2, 0.4])
    assert low < 0.2 < 0.4 < high
    drawn = chart(points, points, [(10, 0.5)], 2000, share)
    assert drawn.count("<polyline") == 3
    assert "nan" not in chart([(1, math.nan), (2, 0.5)], [], [], 10, 0)
    assert "svg" not in chart([(1, math.nan)], [], [], 10, 0)


def test_the_queues_buttons(desk: Desk) -> None:
    desk.runner.close()
    values = fields.form_values({"base": "home/base", "images": "home/pictures", "out": "ink"})
    first = desk.store.add("<b>first</b>", dump(desk.config(values)))
    queue.act(desk, first.id, "duplicate", "")
    second = desk.store.all()[1]
    queue.act(desk, second.id, "rename", "second")
    queue.act(desk, second.id, "up", "")
    rows = queue.rows(desk.store.all(), first)
    assert [(row["name"], row["shown"]) for row in rows] == [
        ("second", False),
        ("<b>first</b>", True),
    ]
    assert "resume" not in rows[0]["acts"]
    queue.act(desk, second.id, "stop", "")
    assert "resume" in queue.rows(desk.store.all(), None)[0]["acts"]
    queue.act(desk, second.id, "delete", "")
    assert [job.id for job in desk.store.all()] == [first.id]
    assert "&lt;b&gt;first" in running.look(first, 0.9).head
    with pytest.raises(InvalidValue, match="load the page anew"):
        queue.act(desk, first.id, "__class__", "")

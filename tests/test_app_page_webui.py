"""The trainer's page through a WebUI's server, without a WebUI: who gets in, what is passed on.

The real page is passed on where this checkout's `.venv` has it; tests/test_host_webui_trainer.py
uses it in a real WebUI.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.testclient import TestClient
from webui_stubs import shared

from a1111_extension.ui import trainer_proxy
from a1111_extension.ui.trainer_app import COMMAND, PYTHON

COOKIE = {"cookie": "user=known"}
START_SECONDS = 120


def can_run() -> bool:
    """Tell whether the checkout's own environment has the page."""
    code = "import gradio, psutil"
    return PYTHON.is_file() and not subprocess.run([PYTHON, "-c", code], check=False).returncode


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A server with a login as Gradio's, as a WebUI has it when it has started."""
    monkeypatch.setattr(trainer_proxy, "data_path", str(tmp_path))
    monkeypatch.setattr(trainer_proxy, "models_path", str(tmp_path))
    for flag, gone in (("shira_dir", [str(tmp_path / "gone")]), ("ckpt_dir", str(tmp_path / "no"))):
        monkeypatch.setattr(shared.cmd_opts, flag, gone, raising=False)
    app = FastAPI()

    def user(request: Request) -> str | None:
        return request.cookies.get("user")

    @app.get("/login_check")
    def login_check(name: str | None = Depends(user)) -> None:
        if name is None:
            raise HTTPException(401, "Not authenticated")

    trainer_proxy.add(None, app)
    with TestClient(app) as found:
        yield found


@pytest.mark.parametrize("path", ["", "/", "/picture?path=x", "/gradio_api/queue/join"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nobody_gets_in_without_the_hosts_login(client: Any, path: str, method: str) -> None:
    answer = client.request(method, f"{trainer_proxy.PATH}{path}", follow_redirects=False)
    assert answer.status_code in ((401,) if path or method == "GET" else (401, 405))


def test_other_sites_change_nothing(client: Any) -> None:
    headers = {**COOKIE, "sec-fetch-site": "cross-site"}
    answer = client.post(f"{trainer_proxy.PATH}/gradio_api/queue/join", headers=headers)
    assert answer.status_code == 403


def test_a_host_without_a_page_gets_no_route() -> None:
    app = FastAPI()
    before = len(app.routes)
    trainer_proxy.add(None, app)
    assert len(app.routes) == before


@pytest.mark.skipif(PYTHON.is_file(), reason="the environment is there")
def test_a_missing_environment_is_told_with_the_command(client: Any) -> None:
    answer = client.get(f"{trainer_proxy.PATH}/", headers=COOKIE)
    assert answer.status_code == 200
    assert COMMAND.rpartition("/")[2] in answer.text


@pytest.mark.skipif(not can_run(), reason="`install.py trainer` has not been run")
def test_page_files_and_events_are_passed_on(client: Any) -> None:
    end = time.monotonic() + START_SECONDS
    page = client.get(f"{trainer_proxy.PATH}/", headers=COOKIE)
    while "is starting" in page.text and time.monotonic() < end:
        time.sleep(0.5)
        page = client.get(f"{trainer_proxy.PATH}/", headers=COOKIE)
    assert f'testserver{trainer_proxy.PATH}"' in page.text
    assert (
        client.get(f"{trainer_proxy.PATH}/picture?path=/etc/passwd", headers=COOKIE).status_code
        == 404
    )
    config = client.get(f"{trainer_proxy.PATH}/config", headers=COOKIE).json()
    loads = [each for each in config["dependencies"] if [t[1] for t in each["targets"]] == ["load"]]
    joined = client.post(
        f"{trainer_proxy.PATH}/gradio_api/queue/join",
        headers=COOKIE,
        json={"data": [], "fn_index": loads[0]["id"], "session_hash": "s"},
    )
    assert joined.status_code == 200, joined.text
    address = f"{trainer_proxy.PATH}/gradio_api/queue/data?session_hash=s"
    with client.stream("GET", address, headers=COOKIE) as events:
        assert events.headers["content-encoding"] == "identity"
        lines = [json.loads(e.removeprefix("data: ")) for e in events.iter_lines() if e]
    assert "process_completed" in [line["msg"] for line in lines]
    assert all(line.get("success", True) for line in lines)

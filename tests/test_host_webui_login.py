"""A real WebUI behind its passwords, and after its page is reloaded; see hosts.py."""

from __future__ import annotations

import base64
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import hosts
import pytest
import webui_hosts
from hosts import Server
from webui_page import WebUI, browsing_webui, log_in

pytestmark = hosts.needs("WEBUI_DIR")
PAGE, API = ("painter", "brush"), ("robot", "oil")
ADAPTERS = "/shira/v1/adapters"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A WebUI without a checkpoint."""
    data = tmp_path_factory.mktemp("webui")
    shutil.copytree(hosts.ROOT / "assets" / "adapters", data / "models" / "shira")
    passwords = ("--gradio-auth", ":".join(PAGE), "--api-auth", ":".join(API))
    more = (*passwords, "--skip-load-model-at-start")
    with webui_hosts.serving(webui_hosts.checkout(), data, data / "none", more) as running:
        yield running


def status(server: Server, path: str, pair: tuple[str, str] | None = None) -> int:
    """Return the status of a request, with a name and password or without."""
    request = urllib.request.Request(server.url + path)
    if pair:
        known = base64.b64encode(":".join(pair).encode()).decode()
        request.add_header("Authorization", f"Basic {known}")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def check_passwords(server: Server) -> None:
    given = {None: 401, PAGE: 401, (API[0], "x"): 401, API: 200}
    assert {pair: status(server, ADAPTERS, pair) for pair in given} == given
    assert status(server, "/shira/trainer/", API) == 401


def check_page(webui: WebUI) -> None:
    """Fail unless rows, the read-out and cards work."""
    webui.add("riso.shira")
    webui.add("riso.shira")
    webui.readout().locator(".shira-error").get_by_text("in several rows").wait_for()
    webui.clear()
    webui.choose_page("SHiRA")
    webui.card("riso").click()
    assert webui.prompted().strip() == "<shira:riso:1> riso style"
    webui.choose_page("Generation")


def test_the_page_and_the_list_ask_for_their_own_password(server: Server, tmp_path: Path) -> None:
    check_passwords(server)
    with browsing_webui(server.url, tmp_path, PAGE) as webui:
        check_page(webui)
        webui.tab.get_by_text("Reload UI", exact=True).last.click()
        webui.tab.wait_for_event("load", timeout=hosts.START_SECONDS * 1000)
        log_in(webui.tab, server.url, PAGE)
        webui.wait_until_loaded()
        check_page(webui)
    check_passwords(server)
    assert "Error loading script: shira" not in server.log(), server.log()
    assert "a1111_extension/" not in server.log(), "a traceback names one of our files"

"""Serves the page: on this machine alone, or elsewhere with a token."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from ..engine.cli import ENVIRONMENT

# Read when Gradio is imported: it would ask its makers' servers for its version, and tell them.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.update({**ENVIRONMENT, **os.environ})  # for the processes beside this one, too

import anyio
import gradio as gr
import uvicorn
from fastapi import FastAPI, Response

from shira_core.errors import InvalidValue

from . import dataset_tab, images, page, widgets
from .aside import imported
from .desk import Desk, open_desk
from .guard import HERE, Guard

CSS, SCRIPT = (Path(__file__).parent / "web" / name for name in ("page.css", "page.js"))
FONTS = ["system-ui", "sans-serif"]
FIXED = ["ui-monospace", "monospace"]
CLOSING = 1  # seconds
# What the process beside ours needs, and takes seconds to import.
ASIDE = ("trainer_ui.models", "diffusers.models.unets", "diffusers.models.autoencoders")
# Where a WebUI shows the page; and the secret that its server alone knows.
ROOT_PATH, TOKEN = "SHIRA_TRAINER_PATH", "SHIRA_TRAINER_TOKEN"


def serve(host: str, port: int, folders: Sequence[Path]) -> int:
    """Serve until Ctrl-C; returns the exit code. folders: the roots, the first for new files.

    Raises InvalidValue for an address that cannot be listened on, WriteFailed, FileInvalid.
    """
    listening = _listen(host, port)
    token = os.environ.pop(TOKEN, "") or ("" if host in HERE else secrets.token_urlsafe(24))
    root_path = os.environ.pop(ROOT_PATH, "")
    if root_path:  # started by a WebUI, with which it ends
        threading.Thread(target=_end_with_parent, daemon=True).start()
    desk = open_desk(folders)
    desk.aside.prepare(imported, *ASIDE)
    # Both would be imported by the first page, while it waits.
    anyio.run(anyio.sleep, 0)
    if find_spec("matplotlib"):
        import_module("matplotlib.pyplot")
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    if not root_path:
        print(
            f"SHiRA trainer: http://{shown}:{port}/{f'?token={token}' if token else ''}", flush=True
        )
    config = uvicorn.Config(
        application(desk, token, root_path),
        log_level="warning",
        timeout_graceful_shutdown=CLOSING,  # a page that is open never closes its stream
    )
    # Python's collector would search all that is imported and built, while every page waits.
    gc.collect()
    gc.freeze()
    try:
        with suppress(KeyboardInterrupt):  # which uvicorn raises again when it has ended
            _Server(config).run(sockets=[listening])
    finally:
        desk.close()
    return 0


class _Server(uvicorn.Server):
    """Ends without complaints about the streams of pages that are open, which it cuts."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    """Take the port, before anything else is started; raises InvalidValue."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise InvalidValue(
            f"cannot listen on {host}, port {port}: {error}: if a trainer runs there already, "
            "open it in the browser; else give another --port"
        ) from None


def _end_with_parent() -> None:
    """Stop to serve when the program that started us is gone: its end of our input is closed."""
    while sys.stdin.buffer.read(1):
        pass
    signal.raise_signal(signal.SIGINT)


def application(desk: Desk, token: str = "", root_path: str = "") -> Guard:
    """Return the app. root_path: where another server shows it, "" for none."""
    app = FastAPI(openapi_url=None)
    images.add(app, desk.roots)
    app.add_api_route("/alive", lambda: Response(status_code=204))  # asked for by page.js
    app.add_api_route(f"/{widgets.FIRST_PICTURES}", lambda: dataset_tab.kept(desk))
    gr.mount_gradio_app(
        app,
        page.build(desk),
        "/",
        root_path=root_path or None,
        theme=_theme(),
        css_paths=CSS,
        head=f'<script type="module">{SCRIPT.read_text(encoding="utf-8")}</script>',
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        allowed_paths=[],
    )
    return Guard(app, token)


def _theme() -> gr.themes.Base:
    """Return a theme with the system's fonts: others would be fetched."""
    return gr.themes.Default(
        primary_hue="teal", neutral_hue="slate", font=FONTS, font_mono=FIXED, radius_size="sm"
    )

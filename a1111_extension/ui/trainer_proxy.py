"""`/shira/trainer`: the trainer's page through the WebUI's server, for who may use the WebUI."""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request
from modules import shared
from modules.paths_internal import data_path, models_path
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from ..paths import folders
from .trainer_app import COMMAND, MISSING, TrainerApp

PATH = "/shira/trainer"
METHODS = ["GET", "POST", "HEAD", "PUT", "DELETE"]
# Of one connection, or of the WebUI alone.
KEPT_BACK = frozenset(
    (
        *("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host"),
        *("cookie", "authorization", "set-cookie", "proxy-authorization", "x-shira-token"),
    )
)
LATER = 1  # second, until a page that waits asks again
PAGE = """<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">
{refresh}<style>body{{font:16px system-ui;margin:2rem}}pre{{white-space:pre-wrap}}</style>{body}"""


def add(_: Any, app: FastAPI) -> None:
    """Add the routes where the WebUI has a page, behind its login."""
    found = (each for each in app.routes if getattr(each, "path", "") == "/login_check")
    login = getattr(next(found, None), "endpoint", None)
    if login is None:  # no page, so nobody can log in
        return
    subpath = (getattr(shared.cmd_opts, "subpath", None) or "").strip("/")
    trainer = TrainerApp(f"/{subpath}{PATH}" if subpath else PATH, _roots())
    guards = [Depends(login)]

    async def answer(request: Request, path: str = "") -> Response:
        return await _answer(trainer, request, path)

    async def with_slash() -> Response:
        return RedirectResponse(f"{PATH.rpartition('/')[2]}/")  # relative: a subpath stays

    app.add_api_route(PATH, with_slash, dependencies=guards, include_in_schema=False)
    app.add_api_route(
        PATH + "/{path:path}",
        answer,
        methods=METHODS,
        dependencies=guards,
        include_in_schema=False,
        response_model=None,
    )


def _roots() -> list[Path]:
    """Return the folders that the trainer may use, the one for its own files first.

    The WebUI starts with folders in its flags that are not there, so the trainer does, too.
    """
    checkpoints = getattr(shared.cmd_opts, "ckpt_dir", None)
    named = [*folders()[1:], *([Path(checkpoints)] if checkpoints else [])]
    found = [folder for folder in named if folder.is_dir()]
    return [Path(data_path) / "shira-trainer", Path(models_path), *found]


async def _answer(trainer: TrainerApp, request: Request, path: str) -> Response:
    if request.headers.get("sec-fetch-site") == "cross-site" and request.method != "GET":
        return Response("another site may not use the trainer", 403)
    problem = await asyncio.to_thread(trainer.problem)
    if problem:
        return _page(problem)
    return await _passed_on(trainer, request, path)


async def _passed_on(trainer: TrainerApp, request: Request, path: str) -> Response:
    import httpx

    client = httpx.AsyncClient(timeout=None, trust_env=False)
    asked = client.build_request(
        request.method,
        httpx.URL(
            f"http://127.0.0.1:{trainer.port}/",
            raw_path=_raw(request, path),
        ),
        headers=_headers(trainer, request),
        content=request.stream() if request.method in ("POST", "PUT") else None,
    )
    try:
        found = await client.send(asked, stream=True)
    except httpx.ConnectError:
        await client.aclose()
        return _page("The trainer is starting...", LATER)
    headers = _kept(found.headers)
    if headers.get("content-type", "").startswith("text/event-stream"):
        headers["content-encoding"] = "identity"  # packed, events would wait for each other
    return StreamingResponse(_body(client, found), found.status_code, headers)


def _raw(request: Request, path: str) -> bytes:
    """Return path and query as they were asked for, `%` and all."""
    raw = request.scope.get("raw_path") or f"{PATH}/{path}".encode()
    below = raw.partition(b"?")[0].partition(PATH.encode())[2] or b"/"
    query = request.scope["query_string"]
    return below + (b"?" + query if query else b"")


def _headers(trainer: TrainerApp, request: Request) -> dict[str, str]:
    forwarded = {
        "x-shira-token": trainer.token,
        "x-forwarded-host": request.headers.get("x-forwarded-host") or request.headers["host"],
        "x-forwarded-proto": request.headers.get("x-forwarded-proto") or request.url.scheme,
    }
    return {**_kept(request.headers), **forwarded}


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in KEPT_BACK}


async def _body(client: Any, found: Any) -> AsyncIterator[bytes]:
    try:
        async for block in found.aiter_raw():
            yield block
    finally:
        await found.aclose()
        await client.aclose()


def _page(text: str, refresh: int = 0) -> HTMLResponse:
    """Return a page that says something, and the command where the environment is missing."""
    command = f"<pre>{html.escape(COMMAND)}</pre>" if text == MISSING else ""
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    body = f"<p>{html.escape(text)}</p>{command}"
    return HTMLResponse(
        PAGE.format(refresh=again, body=body), headers={"Cache-Control": "no-store"}
    )

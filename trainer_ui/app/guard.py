"""Who may use the app: programs of this machine, or whoever knows the token."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

HERE = ("127.0.0.1", "localhost", "::1")
HEADER = "x-shira-token"
COOKIE = "shira_token"
REFUSED = b"This trainer needs its token: open the address that was printed when it was started.\n"
App = Callable[[Any, Any, Any], Awaitable[None]]


class Guard:
    """ASGI middleware that refuses requests before anything else sees them.

    With a token: it comes in a header (from a WebUI's server), a cookie, or once in the address
    (`?token=`), which sets the cookie. Without: only for addresses of this machine, since a page of
    another site can reach it under a name of its own (DNS rebinding). Pages of other sites may
    only link to it: they change nothing, and can neither frame it nor show its pictures.
    """

    def __init__(self, app: App, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        query = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if self._is(query):
            await _redirect(send, query)
        elif self._admits(headers):
            await self._app(scope, receive, send)
        else:
            await _answer(send, 403, [(b"content-type", b"text/plain")], REFUSED)

    def _admits(self, headers: dict[str, str]) -> bool:
        if self._token and self._is(headers.get(HEADER, "")):
            return True
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return False
        if headers.get("sec-fetch-site") == "cross-site" and not _is_link(headers):
            return False
        if not self._token:
            return _host(host) in HERE
        return self._is(_cookie(headers.get("cookie", "")))

    def _is(self, given: str) -> bool:
        return bool(self._token) and secrets.compare_digest(given.encode(), self._token.encode())


def _is_link(headers: dict[str, str]) -> bool:
    """Tell whether a browser shows the page itself, not in a frame and not a part of it."""
    return headers.get("sec-fetch-mode") == "navigate" and (
        headers.get("sec-fetch-dest") == "document"
    )


def _host(text: str) -> str:
    """Return a Host header's name without its port."""
    try:
        return urlsplit(f"//{text}").hostname or ""
    except ValueError:
        return ""


def _cookie(text: str) -> str:
    try:
        found = SimpleCookie(text).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


async def _redirect(send: Any, token: str) -> None:
    """Put the token into a cookie and out of the address bar."""
    cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/".encode()
    await _answer(send, 303, [(b"location", b"./"), (b"set-cookie", cookie)], b"")


async def _answer(send: Any, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})

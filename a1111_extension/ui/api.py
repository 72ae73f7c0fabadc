"""`GET /shira/v1/adapters`: the files of the library for other programs."""

from __future__ import annotations

import secrets
from typing import Any

from fastapi import Depends, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from modules import shared

from ..paths import LIBRARY
from . import cards

_BASIC = HTTPBasic()


def add(_: Any, app: Any) -> None:
    """Add the route where the WebUI has an API; asks for the API's password where it has one."""
    if not shared.cmd_opts.api and not shared.cmd_opts.nowebui:
        return
    guards = [Depends(_admit)] if shared.cmd_opts.api_auth else []
    app.add_api_route("/shira/v1/adapters", adapters, methods=["GET"], dependencies=guards)


def adapters() -> list[dict[str, Any]]:
    """Return name, tag, title, architecture and trigger words of each file, or its `error`."""
    return cards.listing(LIBRARY)


def _admit(given: HTTPBasicCredentials = Depends(_BASIC)) -> None:  # noqa: B008 - as FastAPI wants it
    """Refuse who does not know one of the API's pairs of name and password."""
    said = f"{given.username}:{given.password}".encode()
    known = [pair.strip().encode() for pair in shared.cmd_opts.api_auth.split(",")]
    if not any(secrets.compare_digest(said, pair) for pair in known):
        raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})

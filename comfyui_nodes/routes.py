"""What the page asks the server: /shira/adapters, /shira/info, /shira/preview and /shira/fits.

Names are resolved as everywhere, so that nothing outside of models/shira can be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from shira_core import facts
from shira_core.errors import ShiraError

from . import fits
from .folder import LIBRARY, names


def register(server: Any) -> None:
    """Add the routes to ComfyUI's server."""
    from aiohttp import web

    def answered(read: Callable[..., Any], *parameters: str) -> Callable[[Any], Any]:
        async def answer(request: Any) -> Any:
            values = [request.query.get(each, "") for each in parameters]
            try:
                found = await asyncio.to_thread(read, *values)
            except ShiraError as error:
                return web.json_response({"error": str(error)}, status=400)
            if isinstance(found, tuple):
                return web.Response(body=found[0], content_type=found[1])
            if found is None:
                return web.json_response({"error": "this adapter has no preview"}, status=404)
            return web.json_response(found)

        return answer

    server.routes.get("/shira/adapters")(
        answered(lambda: facts.listing(names(), partial(facts.short, LIBRARY)))
    )
    server.routes.get("/shira/info")(answered(partial(facts.full, LIBRARY), "name"))
    server.routes.get("/shira/preview")(answered(partial(facts.preview, LIBRARY), "name"))
    server.routes.get("/shira/fits")(answered(fits.problem, "name", "folder", "file"))

"""What is installed: `/v1/plugins`."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from orlop.api.requests import read_query, server_of
from orlop.api.responses import plain


async def list_plugins(request: web.Request) -> web.Response:
    read_query(request)
    return plain({"plugins": list(server_of(request).plugins.describe())})


ROUTES: Final = [web.get("/v1/plugins", list_plugins)]

"""`/v1/backup`: the whole state as of one revision, as a file."""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web

from orlop.api.requests import read_query, server_of


async def get_backup(request: web.Request) -> web.Response:
    """The file that `orlop restore` takes."""
    read_query(request)
    server = server_of(request)
    data = await server.backup()
    return web.Response(
        body=data,
        content_type="application/gzip",
        headers={hdrs.CONTENT_DISPOSITION: f'attachment; filename="{server.cluster_name}.orlop-backup"'},
    )


ROUTES: Final = [web.get("/v1/backup", get_backup)]

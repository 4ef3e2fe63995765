"""The page for people at `/`: static files that live on the API alone, as Chronos' own page did."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Final

from aiohttp import web

_CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def _serve(name: str, content_type: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    body = (files(__package__) / name).read_bytes()
    tag = hashlib.sha256(body).hexdigest()[:16]

    async def send(request: web.Request) -> web.StreamResponse:
        headers = {
            "Cache-Control": "no-cache",
            "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
            "ETag": f'"{tag}"',
            "X-Content-Type-Options": "nosniff",
        }
        if any(one.value == tag for one in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)

    return send


ROUTES: Final = [
    web.get("/", _serve("index.html", "text/html")),
    web.get("/page/page.css", _serve("page.css", "text/css")),
    web.get("/page/page.js", _serve("page.js", "text/javascript")),
]

"""Pages for people: static files that live on an API alone, like any other client.

A page is `index.html`, `page.css` and `page.js` of a package, served at `/`, `/page/page.css` and `/page/page.js`.
Beside them stands what all pages have in common: `/page/base.css`, how they look, and `/page/base.js`, how they are
put together.
"""

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


def routes_of_page(package: str) -> list[web.RouteDef]:
    """package: its name. Raises FileNotFoundError when a file is missing."""
    return [
        web.get("/", _serve(package, "index.html", "text/html")),
        *(
            web.get(f"/page/{name}", _serve(where, name, content_type))
            for where, name, content_type in (
                (__name__, "base.css", "text/css"),
                (__name__, "base.js", "text/javascript"),
                (package, "page.css", "text/css"),
                (package, "page.js", "text/javascript"),
            )
        ),
    ]


def _serve(package: str, name: str, content_type: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    body = (files(package) / name).read_bytes()
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

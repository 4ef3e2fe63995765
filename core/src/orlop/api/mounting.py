"""Plugins' routes under the API's address.

A plugin's application may have a listener of its own, at whose root it is served, and is found under its prefix here
as well. aiohttp's sub-applications rewrite the paths of the application they mount, which would break the listener;
so requests are handed on, with the prefix taken off, to the application as it is.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware
from yarl import URL

from orlop.api.forwarding import mark_if_stale
from orlop.api.guard import PLUGIN_ROUTE, Handler
from orlop.api.listening import HANDED_ON, guard_of_listener
from orlop.api.problems import Problem
from orlop.hookspecs import Routes

#: Of a plugin's routes whose handlers read whole bodies.
PLUGIN_BODY_BYTES_MAX: Final = 16 * 2**20

_PREFIX: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
_RESERVED: Final = frozenset({"v1", "metrics", "health", "page"})


def mount(
    application: web.Application, routes: Iterable[Routes], guard: Middleware, forwarding: Callable[[str], Middleware]
) -> None:
    """Hands on `/<prefix>/…`. guard, and forwarding of a prefix: middlewares for applications with own listeners.

    Raises ValueError when a prefix cannot be used. To be called before the application starts.
    """
    for one in routes:
        prefix = prefix_of(one)
        name = f"{PLUGIN_ROUTE}{prefix}"
        if name in application.router.named_resources():
            raise ValueError(f"routes are mounted under {prefix!r} already")
        resource = application.router.add_resource(f"/{prefix}{{rest:(?:/.*)?}}", name=name)
        resource.add_route("*", _handing_on(prefix, one.application), expect_handler=_leave_to_plugin)
        if one.listen:
            one.application.middlewares[:0] = [guard_of_listener(guard), forwarding(f"/{prefix}")]
        else:
            application.cleanup_ctx.append(_living_with(one.application))


def prefix_of(routes: Routes) -> str:
    """Without slashes. Raises ValueError when it cannot be used."""
    prefix = routes.prefix.strip("/") if isinstance(routes.prefix, str) else ""
    if not _PREFIX.fullmatch(prefix) or prefix in _RESERVED:
        raise ValueError(
            f"routes cannot be mounted under {routes.prefix!r}: expected lower-case letters, digits and '-', "
            f"and none of {', '.join(sorted(_RESERVED))}"
        )
    return prefix


async def _leave_to_plugin(request: web.Request) -> None:
    """The plugin's application says itself whether it wants the body."""


def _handing_on(prefix: str, plugin: web.Application) -> Handler:
    async def hand_on(request: web.Request) -> web.StreamResponse:
        if not plugin.frozen:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, f"the routes under /{prefix} have not started yet")
        rest = request.rel_url.raw_path[len(prefix) + 1 :]
        if not rest:
            # What a page names beside itself would be looked for a level too high.
            return web.Response(status=HTTPStatus.PERMANENT_REDIRECT, headers={"Location": f"/{prefix}/"})
        inner = request.clone(
            rel_url=URL.build(path=rest, query_string=request.rel_url.raw_query_string, encoded=True),
            client_max_size=PLUGIN_BODY_BYTES_MAX,
        )
        token = HANDED_ON.set(True)
        try:
            response = await plugin._handle(inner)
        except web.HTTPException as error:
            await error.prepare(inner)
            raise
        finally:
            HANDED_ON.reset(token)
        mark_if_stale(response)
        # Prepared here, for its signals are the plugin's and not the API's.
        await response.prepare(inner)
        return response

    return hand_on


def _living_with(plugin: web.Application) -> Callable[[web.Application], AsyncIterator[None]]:
    """Starts and stops an application that has no listener of its own."""

    async def life(_: web.Application) -> AsyncIterator[None]:
        plugin.on_startup.freeze()
        await plugin.startup()
        plugin.freeze()
        yield
        await plugin.shutdown()
        await plugin.cleanup()

    return life

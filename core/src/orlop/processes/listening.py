"""Binding what a server listens on: the operator API, and each plugin's own listener."""

from __future__ import annotations

import os

from aiohttp import web

from orlop.api.application import make_application, mount_plugin_routes
from orlop.api.guard import is_loopback
from orlop.api.runner import OperatorRunner
from orlop.hookspecs import Routes
from orlop.server.server import Server


class CannotStart(Exception):
    """The environment's fault; the text says what is in the way."""


def check_loopback(address: str, key: str) -> None:
    host = address.rpartition(":")[0].strip("[]")
    if not is_loopback(host):
        raise CannotStart(f"{key} is {address}: without authentication only loopback addresses such as 127.0.0.1 do")


async def listen(server: Server, runners: list[web.AppRunner]) -> dict[str, str]:
    """Binds every listener; what was bound, by name. Raises CannotStart."""
    application = make_application(server)
    addresses = {"orlop": server.address}
    own: list[tuple[str, Routes]] = []
    for plugin in server.plugins.names():
        settings = server.plugins.settings_of(plugin)
        found = server.plugins.call(plugin, "routes", host=server.host, settings=settings) or []
        mount_plugin_routes(application, found)
        own += [(plugin, one) for one in found if one.listen]
    for plugin, one in own:
        check_loopback(one.listen, f"[plugins.{plugin}] listen")
    await _bind(application, server.address, "[server] listen", runners)
    for plugin, one in own:
        await _bind(one.application, one.listen, f"[plugins.{plugin}] listen", runners)
        addresses[plugin] = one.listen
    return addresses


async def _bind(application: web.Application, address: str, key: str, runners: list[web.AppRunner]) -> None:
    host, _, port = address.rpartition(":")
    runner = OperatorRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    runners.append(runner)
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port), reuse_address=True).start()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise CannotStart(f"cannot listen on {address} ({reason}): choose another address with {key}") from error

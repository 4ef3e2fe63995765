"""Binding what a server listens on: the operator API, and each plugin's own listener."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import attrs
from aiohttp import web

from orlop.api.application import make_application, mount_plugin_routes
from orlop.api.runner import OperatorRunner
from orlop.api.tls_site import TlsSite
from orlop.hookspecs import Routes
from orlop.processes.exposure import CannotStart, check_exposure, host_of
from orlop.processes.securing import Door, secure
from orlop.server.server import Server

__all__ = ["CannotStart", "Listening", "listen"]


@attrs.frozen
class Listening:
    """addresses: what was bound, by name. door: None while authentication is off."""

    addresses: Mapping[str, str]
    door: Door | None


async def listen(server: Server, data: Path, runners: list[web.AppRunner]) -> Listening:
    """Binds every listener. With authentication it waits until the cluster's authority is known. Raises CannotStart."""
    addresses = {"orlop": server.address}
    found: list[Routes] = []
    own: list[tuple[str, Routes]] = []
    for plugin in server.plugins.names():
        settings = server.plugins.settings_of(plugin)
        routes = server.plugins.call(plugin, "routes", host=server.host, settings=settings) or []
        found += routes
        own += [(plugin, one) for one in routes if one.listen]
    for plugin, one in own:
        check_exposure(server.settings, one.listen, f"[plugins.{plugin}] listen")
    door = None
    if server.settings.server.auth == "on":
        hosts = [host_of(address) for address in (server.address, *(one.listen for _, one in own))]
        door = await secure(server, data, hosts)
    application = make_application(
        server,
        door.authenticate if door else None,
        server.remote,
        door.trust if door else None,
    )
    mount_plugin_routes(application, found)
    await _bind(application, server.address, "[server] listen", runners, door)
    for plugin, one in own:
        await _bind(one.application, one.listen, f"[plugins.{plugin}] listen", runners, door)
        addresses[plugin] = one.listen
    return Listening(addresses, door)


async def _bind(
    application: web.Application, address: str, key: str, runners: list[web.AppRunner], door: Door | None
) -> None:
    host, port = host_of(address), int(address.rpartition(":")[2])
    runner = OperatorRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    runners.append(runner)
    site: web.BaseSite
    if door is not None:
        site = TlsSite(runner, host, port, door.context)
    else:
        site = web.TCPSite(runner, host, port, reuse_address=True)
    try:
        await site.start()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise CannotStart(f"cannot listen on {address} ({reason}): choose another address with {key}") from error

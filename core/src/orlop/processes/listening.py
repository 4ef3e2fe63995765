"""Binding what a server listens on: the operator API, and each plugin's own listener."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
from aiohttp import web

from orlop.api.application import make_application, mount_plugin_routes
from orlop.api.listening import CertificateFiles, UnixSite, path_of
from orlop.api.runner import OperatorRunner
from orlop.api.tls_site import TlsSite
from orlop.hookspecs import ClientCertificates
from orlop.processes.exposure import CannotStart, host_of
from orlop.processes.securing import Door, secure
from orlop.server.server import Server

__all__ = ["CannotStart", "Listening", "listen"]


@attrs.frozen
class Listening:
    """addresses: what was bound, as URLs by name. door: None while authentication is off."""

    addresses: Mapping[str, str]
    door: Door | None


async def listen(server: Server, data: Path, runners: list[web.AppRunner]) -> Listening:
    """Binds every listener. With authentication it waits until the cluster's authority is known. Raises CannotStart."""
    addresses = {"orlop": server.address}
    own = [(plugin, one) for plugin, one in server.routes if one.listen]
    door = None
    if server.settings.server.auth == "on":
        hosts = [
            host_of(address)
            for address in (server.address, *(tcp for _, one in own for tcp in one.listen if path_of(tcp) is None))
        ]
        door = await secure(server, data, hosts)
    application = make_application(
        server,
        door.authenticate if door else None,
        server.remote,
        door.trust if door else None,
        door.vouching if door else None,
    )
    mount_plugin_routes(application, [one for _, one in server.routes])
    context = door.context if door is not None else None
    await _bind(application, [server.address], "[server] listen", runners, context)
    for plugin, one in own:
        key = f"[plugins.{plugin}] listen"
        context_of_plugin = _certificates(one.tls, plugin) if one.tls is not None else context
        await _bind(one.application, one.listen, key, runners, context_of_plugin)
        addresses[plugin] = ", ".join(_url(address, context_of_plugin) for address in one.listen)
    addresses["orlop"] = _url(server.address, context)
    return Listening(addresses, door)


Context = Callable[[], ssl.SSLContext]


def _url(address: str, context: Context | None) -> str:
    return address if path_of(address) is not None else f"{'http' if context is None else 'https'}://{address}"


def _certificates(files: ClientCertificates, plugin: str) -> Context:
    """Raises CannotStart."""
    try:
        return CertificateFiles(files).context
    except OSError as error:
        raise CannotStart(f"the certificates of [plugins.{plugin}] cannot be used: {error}") from error


async def _bind(
    application: web.Application,
    addresses: Sequence[str],
    key: str,
    runners: list[web.AppRunner],
    context: Context | None,
) -> None:
    runner = OperatorRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    runners.append(runner)
    for address in addresses:
        try:
            await _site(runner, address, context).start()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise CannotStart(f"cannot listen on {address} ({reason}): choose another address with {key}") from error


def _site(runner: web.AppRunner, address: str, context: Context | None) -> web.BaseSite:
    """Raises OSError."""
    if (path := path_of(address)) is not None:
        return UnixSite(runner, path)
    host, port = host_of(address), int(address.rpartition(":")[2])
    if context is not None:
        return TlsSite(runner, host, port, context)
    return web.TCPSite(runner, host, port, reuse_address=True)

"""`orlop up`: server, agent and every installed plugin in one process, on the embedded store."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from aiohttp import web

import orlop
from orlop.agent.agent import Agent
from orlop.agent.detection import DEFAULT_PORTS, architecture, boot_id, detect_resources, operating_system
from orlop.agent.records import AgentRecords, NodeIdentity
from orlop.agent.runtimes.interface import Runtime, RuntimeContext
from orlop.api.application import make_application, mount_plugin_routes
from orlop.api.guard import is_loopback
from orlop.api.runner import OperatorRunner
from orlop.configuration import Settings
from orlop.hookspecs import Routes
from orlop.model.nodes import NodeInfo
from orlop.model.ports import PortSet
from orlop.model.resources import Resources
from orlop.server import builtin
from orlop.server.plugin_host import PluginHost
from orlop.server.server import Server
from orlop.store.etcd_address import StoreAccess
from orlop.store.opening import open_store

log = logging.getLogger(__name__)

#: The interpreter's default lets a busy thread keep the others waiting for 5 ms.
SWITCH_INTERVAL_S: Final = 0.0005
RELOAD_DELAY_S: Final = 1.0


class CannotStart(Exception):
    """The environment's fault; the text says what is in the way."""


def run(settings: Settings, data: Path, announce: Callable[[str], None] = print) -> int:
    """Runs until SIGTERM or SIGINT. Returns the exit code. Raises CannotStart, StoreError, DocumentError."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _check_exposure(settings)
    data = data.absolute()
    data.mkdir(parents=True, exist_ok=True, mode=0o711)  # tasks of other users pass through
    return asyncio.run(_run(settings, data, announce))


def _check_exposure(settings: Settings) -> None:
    """Without authentication Orlop listens on loopback only. Raises CannotStart."""
    if settings.server.auth == "on":
        raise CannotStart('[server] auth = "on" is not built yet: only "off", on loopback addresses, is there')
    _check_loopback(settings.server.listen, "[server] listen")


def _check_loopback(address: str, key: str) -> None:
    host = address.rpartition(":")[0].strip("[]")
    if not is_loopback(host):
        raise CannotStart(f"{key} is {address}: without authentication only loopback addresses such as 127.0.0.1 do")


async def _run(settings: Settings, data: Path, announce: Callable[[str], None]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    while True:
        error = await _one_term(settings, data, announce, stop)
        if error is None:
            return 0
        log.warning("a new term begins, with the state loaded anew: %s", error)
        await asyncio.sleep(RELOAD_DELAY_S)


async def _one_term(
    settings: Settings, data: Path, announce: Callable[[str], None], stop: asyncio.Event
) -> Exception | None:
    plugins = PluginHost(settings, [("orlop", builtin)])
    plugins.load()
    store_url = settings.store.url or f"sqlite://{(data / 'state.db').absolute()}"
    schemes = {scheme: make for _, stores in plugins.collect("stores") for scheme, make in stores.items()}
    store = open_store(store_url, schemes, _store_access(settings))
    runners: list[web.AppRunner] = []
    agent_task: asyncio.Task[None] | None = None
    server = Server(settings, plugins, store, store_url)
    try:
        server.start()
        agent = server.agent = _make_agent(settings, data, plugins, server)
        agent_task = asyncio.create_task(agent.run())
        addresses = await _listen(server, runners)
        announce(_welcome(server, addresses))
        return await _wait(stop, server, agent_task)
    finally:
        for runner in runners:
            await runner.cleanup()
        if agent_task is not None:
            agent_task.cancel()
            await asyncio.gather(agent_task, return_exceptions=True)
        await server.stop()
        store.close()


def _store_access(settings: Settings) -> StoreAccess:
    store = settings.store
    return StoreAccess(
        cluster=settings.cluster.name,
        ca_file=store.ca_file,
        cert_file=store.cert_file,
        key_file=store.key_file,
        user=store.user,
        password=store.password,
        timeout_s=store.timeout_s,
    )


async def _wait(stop: asyncio.Event, server: Server, agent: asyncio.Task[None]) -> Exception | None:
    stopped = asyncio.create_task(stop.wait())
    waited: set[asyncio.Future[Any]] = {stopped, server.failed, agent}
    done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    if stopped in done:
        return None
    stopped.cancel()
    if agent in done:
        error = agent.exception()
        return error if isinstance(error, Exception) else RuntimeError("the agent ended")
    return server.failed.result()


def _make_agent(settings: Settings, data: Path, plugins: PluginHost, server: Server) -> Agent:
    records = AgentRecords(data / "agent" / "agent.db")
    identity = records.identity()
    if identity is None:
        identity = NodeIdentity(node_id=secrets.token_hex(6))
        records.save_identity(identity)
    context = RuntimeContext(
        cluster_id=server.state().cluster_id,
        node_id=identity.node_id,
        data=data / "agent",
        tasks=data / "tasks",
        docker=settings.agent.docker,
    )
    context.tasks.mkdir(parents=True, exist_ok=True)
    wanted = settings.agent.runtimes
    made: list[Runtime] = []
    for _, runtimes in plugins.collect("runtimes", context=context):
        made += [runtime for runtime in runtimes if runtime.name in wanted]
    return Agent(
        info=_node_info(settings, data, identity.node_id),
        records=records,
        identity=identity,
        context=context,
        runtimes=made,
        connect=server.connect_local_agent,
    )


def _node_info(settings: Settings, data: Path, node_id: str) -> NodeInfo:
    configured = dict(settings.agent.resources)
    ports = PortSet.parse(str(configured.pop("ports", DEFAULT_PORTS)))
    resources = dict(detect_resources(data)) | dict(Resources(**configured))
    return NodeInfo(
        id=node_id,
        name=settings.agent.name or socket.gethostname(),
        address=settings.agent.address or "127.0.0.1",
        resources=Resources.of(resources),
        ports=ports,
        attributes=dict(settings.agent.attributes),
        os=operating_system(),
        arch=architecture(),
        boot_id=boot_id(),
        version=orlop.__version__,
    )


async def _listen(server: Server, runners: list[web.AppRunner]) -> dict[str, str]:
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
        _check_loopback(one.listen, f"[plugins.{plugin}] listen")
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


def _welcome(server: Server, addresses: dict[str, str]) -> str:
    lines = [f"Orlop {server.version} is up: cluster {server.cluster_name!r}, state in {server.store_url}"]
    width = max(map(len, addresses))
    lines += [f"  {name:<{width}}  http://{address}" for name, address in addresses.items()]
    for record in server.plugins.records():
        if record.error:
            lines.append(f"  plugin {record.name}: {record.error} (see: orlop plugins list)")
    lines.append("  open to programs on this machine only; Ctrl-C stops Orlop, and its tasks go on")
    return "\n".join(lines)

"""`orlop up`: server, agent and every installed plugin in one process, on the embedded store."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from orlop.configuration import Settings
from orlop.processes.exposure import check_exposure
from orlop.processes.listening import Listening, listen
from orlop.processes.node import make_agent
from orlop.server import builtin
from orlop.server.plugin_host import PluginHost
from orlop.server.server import Server
from orlop.store.opening import open_store

log = logging.getLogger(__name__)

#: The interpreter's default lets a busy thread keep the others waiting for 5 ms.
SWITCH_INTERVAL_S: Final = 0.0005
RELOAD_DELAY_S: Final = 1.0


def run(settings: Settings, data: Path, announce: Callable[[str], None] = print) -> int:
    """Runs until SIGTERM or SIGINT. Returns the exit code. Raises CannotStart, StoreError, DocumentError."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    check_exposure(settings, settings.server.listen, "[server] listen")
    data = data.absolute()
    data.mkdir(parents=True, exist_ok=True, mode=0o711)  # tasks of other users pass through
    return asyncio.run(_run(settings, data, announce))


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
    store = open_store(store_url, schemes)
    runners: list[web.AppRunner] = []
    tasks: list[asyncio.Task[None]] = []
    server = Server(settings, plugins, store, store_url)
    try:
        server.start()
        agent = server.agent = make_agent(
            settings, data, plugins, server.state().cluster_id, server.connect_local_agent
        )
        server.remote.streams.attach_local(agent.node_id, agent.serve_stream)
        tasks.append(asyncio.create_task(agent.run()))
        listening = await listen(server, data, agent.node_id, runners)
        if listening.door is not None:
            tasks.append(asyncio.create_task(listening.door.keep_fresh()))
        announce(_welcome(server, listening))
        return await _wait(stop, server, tasks[0])
    finally:
        for runner in runners:
            await runner.cleanup()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.stop()
        store.close()


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


def _welcome(server: Server, listening: Listening) -> str:
    scheme = "https" if listening.door is not None else "http"
    lines = [f"Orlop {server.version} is up: cluster {server.cluster_name!r}, state in {server.store_url}"]
    width = max(map(len, listening.addresses))
    lines += [f"  {name:<{width}}  {scheme}://{address}" for name, address in listening.addresses.items()]
    for record in server.plugins.records():
        if record.error:
            lines.append(f"  plugin {record.name}: {record.error} (see: orlop plugins list)")
    if listening.door is not None:
        data = listening.door.data
        lines.append(f"  asks for a token: ORLOP_TOKEN=$(cat {data}/admin.token) ORLOP_CA={data}/ca.pem")
        lines.append("  Ctrl-C stops Orlop, and its tasks go on")
    else:
        lines.append("  open to programs on this machine only; Ctrl-C stops Orlop, and its tasks go on")
    return "\n".join(lines)

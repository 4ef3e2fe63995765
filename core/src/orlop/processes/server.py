"""`orlop server`: one of the control plane's processes; and the part of `orlop up` that is the same.

It serves from its first moment on whatever it is: the leader, a standby that hands requests on, or a server without a
store that says so. It begins anew, in the same process, when a plugin that had failed has recovered; and as a new
program in the place of this one when a plugin's code does not return (see `watchdog` and `framework_host`).
"""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from aiohttp import web

from orlop.configuration import Settings
from orlop.model.messages import Seen
from orlop.processes.collecting import Collector
from orlop.processes.exposure import check_exposure
from orlop.processes.listening import Listening, listen
from orlop.processes.plugin_routes import usable_routes
from orlop.processes.restarting import begin_anew, set_aside
from orlop.processes.stores import open_configured_store, store_url
from orlop.server import builtin
from orlop.server.plugin_host import PluginHost
from orlop.server.server import PluginGivenUp, PluginRecovered, Server
from orlop.server.watchdog import Hang, Watchdog
from orlop.store.interface import Store

log = logging.getLogger(__name__)

#: The interpreter's default lets a busy thread keep the others waiting for 5 ms.
SWITCH_INTERVAL_S: Final = 0.0005
BEGIN_ANEW_DELAY_S: Final = 1.0
READY_S: Final = 3.0

T = TypeVar("T")
#: What runs beside the server for as long as it does; makes the coroutine once the server is ready.
Companion = Callable[[Server], Coroutine[Any, Any, None]]


def run(
    settings: Settings,
    data: Path,
    announce: Callable[[str], None] = print,
    companion: Companion | None = None,
    check: Callable[[Store], Seen | None] = lambda _: None,
) -> int:
    """Runs until SIGTERM or SIGINT. Returns the exit code. Raises CannotStart, StoreError, DocumentError.

    check: of the opened store: what this machine's own node has seen of its history; may raise CannotStart.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    check_exposure(settings, settings.server.listen, "[server] listen")
    if companion is None:
        _open_as_many_files_as_allowed()
    data = data.absolute()
    data.mkdir(parents=True, exist_ok=True, mode=0o711)  # tasks of other users pass through
    return asyncio.run(_run(settings, data, announce, companion, check))


def _open_as_many_files_as_allowed() -> None:
    """Each agent takes a few connections. Not where there is an agent: its tasks would inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(
    settings: Settings,
    data: Path,
    announce: Callable[[str], None],
    companion: Companion | None,
    check: Callable[[Store], Seen | None],
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    aside = set_aside()
    while True:
        error = await _one_life(settings, data, announce, companion, check, stop, aside)
        if error is None:
            return 0
        log.warning("this server begins anew: %s", error)
        if isinstance(error, PluginGivenUp):
            begin_anew(_without(aside, error.plugin, str(error)))
        await asyncio.sleep(BEGIN_ANEW_DELAY_S)


async def _one_life(
    settings: Settings,
    data: Path,
    announce: Callable[[str], None],
    companion: Companion | None,
    check: Callable[[Store], Seen | None],
    stop: asyncio.Event,
    aside: Mapping[str, str],
) -> Exception | None:
    """None: it was told to stop. Otherwise why to begin anew; what cannot go on at all is raised.

    aside: plugins that are not to be loaded, and why.
    """
    plugins = PluginHost(settings, [("orlop", builtin)], set_aside=aside)
    plugins.load()
    collector = Collector()
    collector.begin()
    collecting = asyncio.create_task(collector.look_forever())
    store = open_configured_store(settings, data, plugins)
    runners: list[web.AppRunner] = []
    beside: asyncio.Task[None] | None = None
    kept: asyncio.Task[None] | None = None
    server: Server | None = None
    watchdog: Watchdog | None = None
    try:
        server = Server(settings, plugins, store, store_url(settings, data), check(store), usable_routes)
        server.start()
        await _ready(server, store)
        if companion is not None:
            beside = asyncio.create_task(companion(server))
        listening = await _unless(stop, listen(server, data, runners))
        if listening is None:
            return None
        if listening.door is not None:
            kept = asyncio.create_task(listening.door.keep(server))
        announce(_welcome(server, listening))
        watchdog = Watchdog(server.deciding, plugins.plugin_of, partial(_hung, server, aside, stop))
        watchdog.start()
        return await _wait(stop, server, beside)
    except PluginGivenUp as error:
        return error
    finally:
        if watchdog is not None:
            watchdog.stop()
        for runner in runners:
            await runner.cleanup()
        for task in (beside, kept, collecting):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if server is not None:
            await server.stop()
        store.close()


def _hung(server: Server, aside: Mapping[str, str], stop: asyncio.Event, hang: Hang) -> None:
    """On the watchdog's thread. Does not return where a plugin is to blame, unless the server is to stop anyway."""
    if not hang.plugin:
        log.critical("%s. It is here:\n%s", hang.reason, hang.stack)
        return
    log.critical("this server begins anew: %s. It is here:\n%s", hang.reason, hang.stack)
    server.hand_over()
    if not stop.is_set():
        begin_anew(_without(aside, hang.plugin, hang.reason))


def _without(aside: Mapping[str, str], plugin: str, reason: str) -> dict[str, str]:
    return {**aside, plugin: f"{reason}; it is off until the next start"}


async def _ready(server: Server, store: Store) -> None:
    """A shared store may be out of reach for long: then the server listens, and says so. Raises what is fatal."""
    try:
        await asyncio.wait_for(server.ready(), None if store.exclusive else READY_S)
    except TimeoutError:
        log.warning("the store has not answered within %g s", READY_S)
    if server.failed.done():
        raise server.failed.result()


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What the work gives; None when it was told to stop before. Raises what the work raises."""
    working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, stopped):
            task.cancel()
        await asyncio.gather(working, stopped, return_exceptions=True)


async def _wait(stop: asyncio.Event, server: Server, beside: asyncio.Task[None] | None) -> Exception | None:
    stopped = asyncio.create_task(stop.wait())
    waited: set[asyncio.Future[Any]] = {stopped, server.failed}
    if beside is not None:
        waited.add(beside)
    done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    if stopped in done:
        return None
    stopped.cancel()
    if server.failed in done:
        reason = server.failed.result()
        if not isinstance(reason, PluginRecovered | PluginGivenUp):
            raise reason
        return reason
    assert beside is not None, "nothing else was waited for"
    error = beside.exception()
    return error if isinstance(error, Exception) else RuntimeError("the agent ended")


def _welcome(server: Server, listening: Listening) -> str:
    lines = [f"Orlop {server.version} is up: cluster {server.cluster_name!r}, state in {server.store_url}"]
    width = max(map(len, listening.addresses))
    lines += [f"  {name:<{width}}  {address}" for name, address in listening.addresses.items()]
    for record in server.plugins.records():
        if record.error:
            lines.append(f"  plugin {record.name}: {record.error} (see: orlop plugins list)")
    if listening.door is not None:
        data = listening.door.data
        token = data / "admin.token"
        known = f"ORLOP_TOKEN=$(cat {token}) " if token.exists() else ""  # a further server may have no copy of it
        lines.append(f"  asks for a token: {known}ORLOP_CA={data}/ca.pem")
        lines.append("  Ctrl-C stops Orlop, and its tasks go on")
    else:
        lines.append("  open to programs on this machine only; Ctrl-C stops Orlop, and its tasks go on")
    return "\n".join(lines)

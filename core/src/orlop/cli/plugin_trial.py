"""What `orlop plugins check` does with a plugin that has loaded: everything that its hooks give is used once.

Nothing of it reaches beyond this process: its frameworks run on a simulated cluster, where they see two nodes and a few
tasks, its filters and scorers are asked about these, and its routes are served on a port of this machine for a moment
and asked for each page that has no parameters in its path. What a route gives in answer is the plugin's matter, but for
500, which is what an error that nobody expects becomes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, NoReturn

import aiohttp
from aiohttp import web

from orlop.configuration import Settings
from orlop.framework import Action, Ask, Docker, Framework, NotAvailable, PlacementView, PortRequest, Process, View
from orlop.hookspecs import Routes
from orlop.kernel.planner import request_of
from orlop.model.resources import Resources
from orlop.processes.exposure import CannotStart
from orlop.processes.plugin_routes import usable_routes
from orlop.server.plugin_host import CALL_TIMEOUT_S, PluginHost, within
from orlop.testing.harness import Cluster
from orlop.testing.served import SimulatedHost

NODES: Final = 2
#: A page that takes longer follows something, and is no fault.
ANSWER_WITHIN_S: Final = 1.0
PAGES_MAX: Final = 50
SERVED_WITHIN_S: Final = 60.0
BODY_SHOWN_MAX: Final = 300


class Asking(Framework):
    """Has a task of each kind, for filters and scorers to look at."""

    name = "orlop-check"

    def reconcile(self, view: View) -> Iterator[Action]:
        needs = Resources(cpus=0.1, mem="32MiB")
        for number in range(NODES):
            yield Ask(f"process-{number}", Process("true"), needs=needs, ports=(PortRequest(),), group="check")
        yield Ask("container", Docker("busybox"), needs=needs, labels={"orlop": "check"})


class _Host(SimulatedHost):
    """Without engines."""

    async def open_engine(self, node: str) -> NoReturn:
        raise NotAvailable(f"this is a check, and {node} has no engine")


def faults(plugins: PluginHost, name: str, settings: Settings) -> list[str]:
    """What breaks, each in a line, with the place in the plugin's code. plugins: this one alone, loaded.

    What fails in a hook itself is in the plugin's record.
    """
    own = plugins.settings_of(name)
    classes = plugins.call(name, "frameworks") or ()
    filters = plugins.call(name, "node_filters", settings=own) or ()
    scorers = plugins.call(name, "node_scorers", settings=own) or ()
    cluster = Cluster(Asking(), check_idempotence=False)
    cluster.add_nodes(NODES, rack="r1")
    cluster.settle()
    found: list[str] = []
    for one in filters:
        found += _tried(f"filter {_name(one)}", partial(_place, cluster, one, _a_reason))
    for one in scorers:
        found += _tried(f"scorer {_name(one)}", partial(_place, cluster, one, _a_number))
    for framework in classes:
        found += _tried(f"framework {framework.name}", partial(_run, cluster, framework, own))
    host = _Host(cluster)
    try:
        routes = usable_routes(settings, plugins, host)  # type: ignore[arg-type]  # what routes may use of it
    except CannotStart as error:
        return [*found, str(error)]
    for _, one in routes:
        pages: list[str] = []
        broken = _tried(f"routes under {one.prefix}", partial(asyncio.run, _serve(one, pages)), SERVED_WITHIN_S)
        found += [*broken, *pages]
    return found


def _name(one: Any) -> str:
    return str(getattr(one, "name", "") or type(one).__name__)


def _tried(what: str, work: Callable[[], None], timeout_s: float = CALL_TIMEOUT_S) -> list[str]:
    try:
        within(timeout_s, work)
    except BaseException as error:  # noqa: BLE001  (SystemExit too: it is told and not obeyed)
        return [f"{what}: {_text(error)}"]
    return []


def _text(error: BaseException) -> str:
    """The error and where it was raised, in one line."""
    said = " ".join("".join(traceback.format_exception_only(error)).split())
    frames = traceback.extract_tb(error.__traceback__)
    return f"{said} (in {frames[-1].name}, {frames[-1].filename}:{frames[-1].lineno})" if frames else said


def _place(cluster: Cluster, one: Any, check: Callable[[Any], None]) -> None:
    """As the kernel asks it, which takes an error for a refusal."""
    state = cluster.state
    for task in cluster.tasks(Asking.name):
        ask = one.prepare(request_of(task, state.spec_of(task)), PlacementView(state))
        if ask is None:
            continue
        for node in state.nodes():
            check(ask(state.candidate(node.id)))


def _a_reason(answer: Any) -> None:
    if answer is not None and not isinstance(answer, str):
        raise TypeError(f"expected the reason to refuse a node, or None, got {answer!r}")


def _a_number(answer: Any) -> None:
    if not isinstance(answer, int | float):
        raise TypeError(f"expected a number, got {answer!r}")


def _run(cluster: Cluster, framework: type[Framework], own: Any) -> None:
    cluster.install(framework(own))
    cluster.settle()


async def _serve(routes: Routes, found: list[str]) -> None:
    """Adds to `found` the pages that break, each in a line. Raises what the application does when it begins or ends."""
    application = routes.application
    pages = [
        resource.canonical
        for resource in application.router.resources()
        if "{" not in resource.canonical and any(route.method in ("GET", "*") for route in resource)
    ]
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)) as http:
            for page in pages[:PAGES_MAX]:
                with _errors_of_handlers() as errors, contextlib.suppress(TimeoutError, aiohttp.ClientError):
                    async with http.get(url + page, allow_redirects=False) as answer:
                        if answer.status == web.HTTPInternalServerError.status_code:
                            said = errors[0] if errors else (await answer.text())[:BODY_SHOWN_MAX]
                            found.append(f"routes under {routes.prefix}: GET {page} is answered 500: {said}")
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def _errors_of_handlers() -> Iterator[list[str]]:
    """Those that aiohttp has answered for."""
    errors: list[str] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1] is not None:
                errors.append(_text(record.exc_info[1]))

    log, handler = logging.getLogger("aiohttp.server"), Keeping()
    log.addHandler(handler)
    try:
        yield errors
    finally:
        log.removeHandler(handler)

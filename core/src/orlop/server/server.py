"""One server's term: the store, the core, the frameworks, the sessions and the event log, wired together.

Threads: this module's coroutines and callbacks run on one event loop, which owns all sockets. The kernel and the
store writer have a thread each (`core.py`), and so has each framework (`framework_host.py`). What crosses from them
to the loop goes through `_Bridge`, which wakes the loop once per burst, not once per effect.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram

import orlop
from orlop.agent.agent import Agent, read_clock
from orlop.agent.session import AgentEnd, local_session
from orlop.configuration import Settings
from orlop.framework import Framework, NotAvailable, Task
from orlop.kernel.events import (
    Answer,
    DrainNode,
    Effect,
    KillTask,
    Logged,
    Notify,
    Published,
    Tick,
    TickAt,
    ToNode,
)
from orlop.kernel.kernel import Kernel
from orlop.kernel.placement import NodeFilter, NodeScorer
from orlop.kernel.state import State
from orlop.model.asks import Explanation
from orlop.model.events import LogEntry
from orlop.server.core import Core
from orlop.server.event_log import EventLog
from orlop.server.framework_host import FrameworkHost, FrameworkStatus
from orlop.server.framework_run import FrameworkRunner
from orlop.server.liveness import Liveness, LivenessSettings
from orlop.server.loading import Term, begin_term
from orlop.server.plugin_host import PluginHost
from orlop.server.remote_agents import RemoteAgents
from orlop.server.routing import Host
from orlop.server.sessions import Sessions
from orlop.server.timers import TimerService
from orlop.store.interface import Store

log = logging.getLogger(__name__)

HANG_CHECK_S: Final = 0.5
PLUGIN_RETRY_CHECK_S: Final = 0.5


class PluginRecovered(Exception):
    """Not an error: a reason for a new term."""


class _Bridge:
    """Carries calls from threads to the loop, in order, waking it once per burst."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[Callable[[], None]] = deque()

    def call(self, function: Callable[[], None]) -> None:
        self._calls.append(function)
        if len(self._calls) == 1:
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        while self._calls:
            function = self._calls[0]
            try:
                function()
            except Exception:
                log.exception("an effect could not be carried out")
            self._calls.popleft()


class Server:
    """A server that leads. Make it on the event loop; `start`, then `stop`.

    Raises StoreError, DocumentError when the state cannot be loaded.
    """

    def __init__(self, settings: Settings, plugins: PluginHost, store: Store, store_url: str) -> None:
        self.settings = settings
        self.plugins = plugins
        self.cluster_name = settings.cluster.name
        self.address = settings.server.listen
        self.version = orlop.__version__
        self.store_url = store_url
        self.metrics = CollectorRegistry()
        self.failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self.agent: Agent | None = None
        self._store = store
        self._bridge = _Bridge(asyncio.get_running_loop())
        self._classes = self._framework_classes()
        classes = {name: framework for name, (_, framework) in self._classes.items()}
        self.started_utc_ms = read_clock().utc_ms
        term = begin_term(store, classes, self.address, self.started_utc_ms)
        self._kernel = self._make_kernel()
        self._core = self._make_core(term)
        self._timers = TimerService(asyncio.get_running_loop())
        self._frameworks = self._make_frameworks()
        self.host = Host(
            cluster_name=self.cluster_name,
            address=self.address,
            version=self.version,
            frameworks=self._frameworks,
            clock=read_clock,
        )
        liveness = Liveness(LivenessSettings(), iter(term.state.node_order), read_clock().monotonic_ms)
        self._sessions = Sessions(self._core, liveness, read_clock)
        self.remote = RemoteAgents(self.state, self.host.command, self._sessions.serve, read_clock)
        self._log = EventLog(store, self._kernel.settings.log_records_kept)
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._tokens = itertools.count(1)
        self._background: set[asyncio.Task[Any]] = set()
        self._effects_total = Counter(
            "orlop_effects", "Effects released after their commit", ["kind"], registry=self.metrics
        )
        self._command_seconds = Histogram(
            "orlop_submit_seconds", "From an operator's request to its commit", registry=self.metrics
        )

    def _framework_classes(self) -> dict[str, tuple[str, type[Framework]]]:
        found: dict[str, tuple[str, type[Framework]]] = {}
        for plugin, classes in self.plugins.collect("frameworks"):
            for framework in classes:
                if framework.name in found:
                    log.error("framework %s of plugin %s exists already; ignored", framework.name, plugin)
                else:
                    found[framework.name] = (plugin, framework)
        return found

    def _make_kernel(self) -> Kernel:
        filters: list[NodeFilter] = []
        scorers: list[NodeScorer] = []
        for plugin in self.plugins.names():
            settings = self.plugins.settings_of(plugin)
            filters += self.plugins.call(plugin, "node_filters", settings=settings) or []
            scorers += self.plugins.call(plugin, "node_scorers", settings=settings) or []
        return Kernel(filters, scorers)

    def _make_core(self, term: Term) -> Core:
        return Core(
            self._kernel,
            self._store,
            term.state,
            term.epoch,
            read_clock,
            self._release,
            lambda error: self._bridge.call(lambda: self._step_down(error)),
            term.fence,
        )

    def _make_frameworks(self) -> dict[str, FrameworkHost]:
        made = {}
        for name, (plugin, framework) in self._classes.items():
            try:
                instance = framework(self.plugins.settings_of(plugin))
            except Exception:
                log.exception("framework %s cannot be made", name)
                continue
            made[name] = FrameworkHost(
                plugin,
                FrameworkRunner(instance, self._kernel.explain),
                self._core,
                read_clock,
                self._wakeup_setter(name),
                self.settings.server.handler_timeout_s,
            )
        return made

    def _wakeup_setter(self, name: str) -> Callable[[str, int | None], None]:
        def set_wakeup(token: str, utc_ms: int | None) -> None:
            self._timers.set(f"{name}/{token}", utc_ms, lambda: self._frameworks[name].wake(token))

        return set_wakeup

    def start(self) -> None:
        """Begins to decide. Sessions and listeners come after it."""
        self._core.start()
        for framework in self._frameworks.values():
            framework.start()
        self._core.submit(Tick())
        for work in (self._sessions.watch(), self._check_hangs(), self._retry_plugins()):
            task = asyncio.get_running_loop().create_task(work)
            self._background.add(task)

    async def stop(self) -> None:
        """Writes what was decided, and ends. Tasks go on."""
        for task in self._background:
            task.cancel()
        for framework in self._frameworks.values():
            framework.stop()
        await asyncio.to_thread(self._core.stop)
        self._timers.stop()

    async def connect_local_agent(self) -> AgentEnd:
        """A session for an agent in this process."""
        agent_end, server_end = local_session()
        task = asyncio.get_running_loop().create_task(self._sessions.serve(server_end))
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return agent_end

    async def _check_hangs(self) -> None:
        while True:
            await asyncio.sleep(HANG_CHECK_S)
            for framework in self._frameworks.values():
                framework.check_hang()

    async def _retry_plugins(self) -> None:
        """Tries failed plugins again; when one has recovered, a new term begins with it (tasks go on)."""
        while True:
            await asyncio.sleep(PLUGIN_RETRY_CHECK_S)
            for name in self.plugins.due_retries(time.monotonic()):
                if await asyncio.to_thread(self._recovers, name):
                    self._step_down(PluginRecovered(f"plugin {name} has recovered"))

    def _recovers(self, name: str) -> bool:
        """Does it load now, and answer all the hooks that a term begins with?"""
        if self.plugins.retry(name).state != "loaded":
            return False
        settings = self.plugins.settings_of(name)
        self.plugins.call(name, "frameworks")
        self.plugins.call(name, "node_filters", settings=settings)
        self.plugins.call(name, "node_scorers", settings=settings)
        self.plugins.call(name, "routes", host=self.host, settings=settings)
        return name in self.plugins.names()

    def _step_down(self, error: Exception) -> None:
        if not self.failed.done():
            self.failed.set_result(error)

    # Effects: called on the writer thread, after the commit

    def _release(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Notify):
                framework = self._frameworks.get(effect.framework)
                if framework is not None:
                    framework.notify(effect)
            else:
                self._bridge.call(partial(self._carry_out, effect))
        self._bridge.call(self.host.committed)

    def _carry_out(self, effect: Effect) -> None:
        self._effects_total.labels(type(effect).__name__).inc()
        match effect:
            case ToNode():
                self._sessions.send(effect)
            case Logged():
                self._log.add(effect)
            case Published():
                self.host.published(effect)
            case TickAt():
                self._timers.set("kernel", effect.utc_ms, lambda: self._core.submit(Tick()))
            case Answer():
                future = self._answers.pop(effect.token, None)
                if future is not None and not future.done():
                    future.set_result(effect.value)
                else:
                    self._sessions.refuse(effect)

    # What the operator API uses

    def state(self) -> State:
        """The newest durable state."""
        return self._core.committed

    def framework_status(self) -> Mapping[str, FrameworkStatus]:
        return {name: framework.status for name, framework in self._frameworks.items()}

    def read_only_reason(self) -> str:
        """Why writes are refused; empty when they are not."""
        return self._core.read_only_reason

    def explain(self, task: Task) -> Explanation:
        return self._kernel.explain(self.state(), task)

    async def submit(self, event: DrainNode | KillTask) -> Any:
        """The answer, or True where there is none, after the commit. Raises NotAvailable."""
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        durable: asyncio.Future[None] = loop.create_future()

        def resolve(reason: str | None) -> None:
            if durable.done():
                return
            if reason is None:
                durable.set_result(None)
            else:
                durable.set_exception(NotAvailable(f"nothing was changed: {reason}"))

        answer: asyncio.Future[Any] | None = None
        if isinstance(event, KillTask):
            token = f"operator-{next(self._tokens)}"
            answer = self._answers[token] = loop.create_future()
            event = KillTask(task=event.task, reason=event.reason, token=token)
        self._core.submit(event, lambda reason: self._bridge.call(lambda: resolve(reason)))
        await durable
        self._command_seconds.observe(time.perf_counter() - started)
        return await answer if answer is not None else True

    async def log_entries(
        self, *, after: tuple[int, int] | None, limit: int, subject: str | None = None
    ) -> tuple[list[tuple[int, int, LogEntry]], bool]:
        """Entries of the event log: (version, index, entry), ascending, and whether some were dropped before."""
        return await self._log.entries(
            after=after,
            limit=limit,
            wanted=lambda entry: subject is None or entry.subject == subject,
            version=self.state().version,
        )

    def follow_log(self) -> AbstractContextManager[asyncio.Queue[Logged | None]]:
        return self._log.follow()

    def task_output(self, task: Task, stream: str, *, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        """Raises NotAvailable when the task's node cannot be reached from here."""
        if task.placement is None:
            raise NotAvailable("the task is not on a node yet, so it has no output")
        runtime = self.state().spec_of(task).runtime
        if self.agent is not None and self.agent.node_id == task.placement.node:
            return self.agent.output(task.id, runtime, stream, follow=follow, tail=tail)
        return self.remote.output(task, runtime, stream, follow=follow, tail=tail)

"""One term of leadership: the core, the frameworks, the sessions, the timers and the event log, wired together.

Threads: this module's coroutines and callbacks run on one event loop, which owns all sockets. The kernel and the
store writer have a thread each (`core.py`), and so has each framework (`framework_host.py`). What crosses from them
to the loop goes through a `Bridge`, which wakes the loop once per burst, not once per effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import attrs
from prometheus_client import CollectorRegistry, Counter, Histogram

from orlop.agent.agent import read_clock
from orlop.agent.session import AgentEnd, Link, local_session
from orlop.framework import Framework, NotAvailable
from orlop.kernel import records
from orlop.kernel.events import (
    Answer,
    Assign,
    DrainNode,
    Effect,
    Event,
    ForgetNode,
    Forgotten,
    KillTask,
    Logged,
    Notify,
    Published,
    TermBegan,
    TermEnds,
    Tick,
    TickAt,
    ToNode,
    Unplaced,
)
from orlop.kernel.kernel import Kernel
from orlop.kernel.state import State
from orlop.model.messages import ToAgent, ToServer
from orlop.recurring import surviving
from orlop.server.bridge import Bridge
from orlop.server.core import Core
from orlop.server.election import TOO_LATE
from orlop.server.event_log import EventLog
from orlop.server.framework_host import LOOK_EVERY_S, FrameworkHost, FrameworkStatus
from orlop.server.framework_run import FrameworkRunner
from orlop.server.housekeeping import Advice, Housekeeping
from orlop.server.liveness import Liveness, LivenessSettings
from orlop.server.loading import Term
from orlop.server.node_clocks import Clocks
from orlop.server.patience import Work
from orlop.server.pipeline import Failure
from orlop.server.plugin_host import PluginHost
from orlop.server.redo import document_bytes_max
from orlop.server.routing import Host
from orlop.server.sessions import Sessions
from orlop.server.storable import Storable
from orlop.server.ticks import next_tick
from orlop.server.timers import TimerService
from orlop.store.interface import Compacted, OutcomeUnknown, Store, StoreError

log = logging.getLogger(__name__)

HOUSEKEEPING_S: Final = 10.0
TICK_AGAIN_MS: Final = 1_000


class Metrics:
    """What is counted for as long as the process lives, in whichever terms."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.effects = Counter("orlop_effects", "Effects released after their commit", ["kind"], registry=self.registry)
        self.command_seconds = Histogram(
            "orlop_submit_seconds", "From an operator's request to its commit", registry=self.registry
        )


@attrs.frozen(kw_only=True)
class Parts:
    """What a term is made of beside its state; the same in all terms of a server.

    classes: framework's name → (plugin, class). url: this server's.
    """

    store: Store
    kernel: Kernel
    plugins: PluginHost
    classes: Mapping[str, tuple[str, type[Framework]]]
    host: Host
    bridge: Bridge
    metrics: Metrics
    handler_timeout_s: float
    url: str = ""
    liveness: LivenessSettings = attrs.field(factory=LivenessSettings)


class Leadership:
    """A server's term as the leader. Make it on the event loop; `start`, then `stop`.

    failed: called on the event loop when the term cannot go on. leads: does this server lead, as far as it can know?
    given_up: called on the event loop with the name of a plugin without which the server had better go on, and why.
    """

    def __init__(
        self,
        term: Term,
        parts: Parts,
        failed: Callable[[Exception], None],
        leads: Callable[[], bool],
        given_up: Callable[[str, str], None] = lambda _plugin, _reason: None,
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._parts = parts
        self._failed = failed
        self._leads = leads
        self._given_up = given_up
        self._bridge = parts.bridge
        #: Of the effects of one kind: to look it up costs more than to count.
        self._counter = functools.cache(parts.metrics.effects.labels)
        self._core = Core(
            parts.kernel,
            parts.store,
            term,
            read_clock,
            self._release,
            lambda error: parts.bridge.call(lambda: failed(error)),
            self._decided,
        )
        self._timers = TimerService(loop, read_clock)
        self._housekeeping = Housekeeping()
        self._frameworks = self._make_frameworks()
        liveness = Liveness(parts.liveness, iter(term.state.node_order), read_clock().monotonic_ms)
        self._sessions = Sessions(self._core, liveness, read_clock, self._bridge)
        self.log = EventLog(parts.store, parts.kernel.settings.log_records_kept)
        self._wrong_clocks: frozenset[str] = frozenset()
        self._answers: dict[str, asyncio.Future[Any]] = {}
        #: Why the term is over, once nothing more is heard of it.
        self._over: asyncio.Future[str] = loop.create_future()
        self._began = TermBegan(server=parts.url, since_utc_ms=read_clock().utc_ms, reason=term.after)
        self._tokens = itertools.count(1)
        self._background: set[asyncio.Task[Any]] = set()

    def _make_frameworks(self) -> dict[str, FrameworkHost]:
        made = {}
        storable = Storable(document_bytes_max(self._parts.store.limits))
        for name, (plugin, framework) in self._parts.classes.items():
            try:
                made[name] = FrameworkHost(
                    plugin,
                    partial(self._make_runner, plugin, framework, storable),
                    self._core,
                    read_clock,
                    self._wakeup_setter(name),
                    self._parts.handler_timeout_s,
                    self.refusal,
                    partial(self._given_up, plugin),
                )
            except Exception:
                log.exception("framework %s cannot be made", name)
        return made

    def _make_runner(self, plugin: str, framework: type[Framework], storable: Storable) -> FrameworkRunner:
        instance = framework(self._parts.plugins.settings_of(plugin))
        return FrameworkRunner(instance, self._parts.kernel.explain, storable)

    def _wakeup_setter(self, name: str) -> Callable[[str, int | None], None]:
        def set_wakeup(token: str, utc_ms: int | None) -> None:
            self._timers.set(f"{name}/{token}", utc_ms, lambda: self._frameworks[name].wake(token))

        return set_wakeup

    def start(self) -> None:
        """Begins to decide. Sessions and listeners come after it."""
        self._core.start()
        for framework in self._frameworks.values():
            framework.start()
        self._tell_beginning()
        self._parts.host.lead(self._frameworks, lambda: self._core.head)
        for work in (self._sessions.watch(), self._check_hangs(), self._keep_house()):
            task = asyncio.get_running_loop().create_task(work)
            self._background.add(task)

    async def stop(self, reason: str = "this server stops") -> None:
        """A planned end: writes what was decided. Tasks go on."""
        self._leave(reason)
        self._core.submit(TermEnds(server=self._parts.url, reason=reason))
        await asyncio.to_thread(self._core.stop)
        self._end(reason)

    def abandon(self, reason: str) -> None:
        """The lead is lost: nothing more is written or released. Tasks go on."""
        self._leave(reason)
        self._core.abandon(reason)
        self._end(reason)

    def _end(self, reason: str) -> None:
        """Whoever still waits is answered, after those who can be told more."""

        def end() -> None:
            if not self._over.done():
                self._over.set_result(reason)

        self._bridge.call(end)

    def _leave(self, reason: str) -> None:
        self._parts.host.follow_leader()
        for task in self._background:
            task.cancel()
        self._sessions.close(reason)
        self.log.close()
        for framework in self._frameworks.values():
            framework.stop(reason)
        self._timers.stop()

    async def connect_local_agent(self) -> AgentEnd:
        """A session for an agent in this process."""
        agent_end, server_end = local_session()
        task = asyncio.get_running_loop().create_task(self._sessions.serve(server_end))
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return agent_end

    async def serve_agent(self, link: Link[ToAgent, ToServer]) -> None:
        """A session for an agent elsewhere, until it ends."""
        await self._sessions.serve(link)

    async def _check_hangs(self) -> None:
        while True:
            await next_tick(LOOK_EVERY_S)
            for framework in self._frameworks.values():
                with surviving("the look for handlers that hang"):
                    framework.check_hang()

    async def _keep_house(self) -> None:
        """Keeps the store from filling up."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            with surviving("the look at the nodes' clocks"):
                self._look_at_clocks()
            with surviving("the look after the store's history"):
                try:
                    await asyncio.to_thread(self._keep_house_once)
                except StoreError as error:
                    log.warning("the store's history could not be looked after: %s", error)

    def _look_at_clocks(self) -> None:
        found = self.clocks()
        if found.whose != self._wrong_clocks:
            log.warning("%s", found.trouble or "the clocks of the nodes and this server agree again")
        self._wrong_clocks = found.whose

    def _keep_house_once(self) -> None:
        store, now_ms = self._parts.store, read_clock().monotonic_ms
        disk_before, refusal_before = self._housekeeping.disk, self._housekeeping.refusal
        if (disk := getattr(store, "disk", None)) is not None:
            self._housekeeping.look_at(disk())
        _tell_change(disk_before, self._housekeeping.disk, "the store's disk has room again")
        revision = self._housekeeping.note(store.range(records.META_KEY, limit=1).revision, now_ms)
        if revision is not None:
            with contextlib.suppress(Compacted):  # somebody else has done so
                store.compact(revision)
        advice = self._housekeeping.judge(store.room(), now_ms)
        if advice is Advice.TRIM or self._core.read_only_reason:
            log.warning("the store is nearly full: its history is given up")
            store.make_room()
            self._housekeeping.judge(store.room(), now_ms)
        over = "the store has room again, and new work is accepted"
        _tell_change(refusal_before, self._housekeeping.refusal, over)

    def refusal(self) -> str:
        """Why new work is refused; empty when it is not."""
        return self._housekeeping.refusal

    def _decided(self, write: Callable[[], None]) -> None:
        """On the kernel's thread, after each step. Who waits for no more than a decision is answered first, which takes
        the loop until its next turn: the writer would take the interpreter for itself meanwhile."""
        if self._parts.host.awaits_decisions:
            self._bridge.call(lambda: self._answer_first(write))
        else:
            write()

    def _answer_first(self, write: Callable[[], None]) -> None:
        self._parts.host.decided()
        self._loop.call_soon(write)

    # Effects: called on the writer thread, after the commit

    def _release(self, effects: Sequence[Effect]) -> None:
        calls = (partial(self._carry_out, effect) for effect in effects if not isinstance(effect, Notify))
        self._bridge.call(*calls, self._parts.host.committed)
        for effect in effects:
            if isinstance(effect, Notify) and (framework := self._frameworks.get(effect.framework)) is not None:
                framework.notify(effect)

    def _carry_out(self, effect: Effect) -> None:
        """A process that was stopped goes on here, before its election does. Another server may have given up by then
        what a node would be told to start."""
        if not self._leads():
            self._failed(OutcomeUnknown(TOO_LATE))
            return
        self._counter(type(effect).__name__).inc()
        match effect:
            case ToNode() | Assign():
                self._sessions.send(effect)
            case Logged():
                self.log.add(effect)
            case Published():
                self._parts.host.published(effect)
            case Forgotten():
                self._sessions.forget(effect.node)
            case TickAt():
                self._timers.set("kernel", effect.utc_ms, self._tick)
            case Unplaced():
                self._parts.host.unplaced(effect)
            case Answer():
                future = self._answers.get(effect.token)
                if future is not None and not future.done():
                    future.set_result(effect.value)
                else:
                    self._sessions.refuse(effect)

    def _tick(self) -> None:
        """What is due happens, or is tried again."""
        self._insist("kernel", Tick(), self._tick)

    def _tell_beginning(self) -> None:
        self._insist("beginning", self._began, self._tell_beginning)

    def _insist(self, key: str, event: Event, again: Callable[[], None]) -> None:
        """Submits it. again: called a little later if the store takes nothing. key: of the timer."""

        def done(failure: Failure | None) -> None:
            if failure is not None:
                self._timers.set(key, read_clock().utc_ms + TICK_AGAIN_MS, again)

        self._core.submit(event, done)

    # What the operator API uses

    def state(self) -> State:
        """The newest durable state."""
        return self._core.committed

    def framework_status(self) -> Mapping[str, FrameworkStatus]:
        return {name: framework.status for name, framework in self._frameworks.items()}

    def read_only_reason(self) -> str:
        """Why writes are refused, or take very long; empty when they are done."""
        return self._core.slow_reason or self._core.read_only_reason

    def store_trouble(self) -> str:
        """What the store lacks room for, or soon will; empty when there is enough."""
        return self._housekeeping.refusal or self._housekeeping.disk

    def clocks(self) -> Clocks:
        """How far nodes' clocks are from this server's."""
        state = self._core.committed

        def name_of(node_id: str) -> str:
            node = state.node(node_id)
            return node.info.name if node is not None else node_id

        return self._sessions.clocks.judge(read_clock(), name_of)

    def deciding(self) -> Work | None:
        """What the kernel decides at this moment. May be asked from any thread."""
        return self._core.deciding

    async def submit(self, event: DrainNode | ForgetNode | KillTask) -> Any:
        """The answer, or True where there is none, after the commit. Raises NotAvailable."""
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        durable: asyncio.Future[None] = loop.create_future()

        def resolve(failure: Failure | None) -> None:
            if durable.done():
                return
            if failure is None:
                durable.set_result(None)
            else:
                durable.set_exception(NotAvailable(str(failure)))

        token = f"operator-{next(self._tokens)}"
        answer: asyncio.Future[Any] | None = None
        if isinstance(event, KillTask | ForgetNode):
            answer = self._answers[token] = loop.create_future()
            event = attrs.evolve(event, token=token)
        try:
            self._core.submit(event, lambda failure: self._bridge.call(lambda: resolve(failure)))
            await self._unless_over(durable)
            self._parts.metrics.command_seconds.observe(time.perf_counter() - started)
            return await self._unless_over(answer) if answer is not None else True
        finally:
            durable.cancel()
            self._answers.pop(token, None)

    async def _unless_over(self, awaited: asyncio.Future[Any]) -> Any:
        """What it brings. Raises NotAvailable, too, when the term ends before: what was decided is not released then,
        not even when it is durable."""
        await asyncio.wait((awaited, self._over), return_when=asyncio.FIRST_COMPLETED)
        if not awaited.done():
            raise NotAvailable(str(Failure(self._over.result(), unknown=True)))
        return awaited.result()


def _tell_change(before: str, now: str, over: str) -> None:
    """Logs a trouble as it begins, and that it is over. before, now: empty without one."""
    if bool(before) != bool(now):
        log.warning("%s", now or over)

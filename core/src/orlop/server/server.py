"""A server: leads, or stands by and knows what the leader knows.

It lives as long as its process, or until it had better begin anew, with a plugin or without one. Its terms of
leadership come and go with the election (`candidate.py`); what it serves comes from the term while it leads, and from
the mirror while it does not.
"""

from __future__ import annotations

import asyncio
import io
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import orlop
from orlop.agent.agent import Agent, read_clock
from orlop.agent.session import AgentEnd, Link, LinkClosed
from orlop.configuration import ClusterSettings, Settings
from orlop.framework import Framework, Node, NotAvailable, Task
from orlop.hookspecs import Routes
from orlop.kernel.events import DrainNode, ForgetNode, KillTask, Logged
from orlop.kernel.kernel import Kernel
from orlop.kernel.placement import NodeFilter, NodeScorer
from orlop.kernel.state import State
from orlop.model.asks import Explanation
from orlop.model.documents import DocumentError
from orlop.model.log_entries import LogEntry
from orlop.model.messages import Seen, ToAgent, ToServer
from orlop.server import admission, archive
from orlop.server.bridge import Bridge
from orlop.server.candidate import Candidate
from orlop.server.election import ElectionSettings
from orlop.server.framework_host import FrameworkStatus
from orlop.server.framework_run import ObjectUnreadable
from orlop.server.leadership import Leadership, Metrics, Parts
from orlop.server.liveness import LivenessSettings
from orlop.server.loading import LeaderRecord, Term
from orlop.server.node_clocks import Clocks
from orlop.server.patience import Work
from orlop.server.plugin_host import PluginHost
from orlop.server.remote_agents import RemoteAgents
from orlop.server.role import Role
from orlop.server.rotation import AUTHORITY, CURRENT, FORMER, NEXT, StoredAuthority
from orlop.server.routing import Host
from orlop.server.ticks import next_tick
from orlop.store.interface import Store, StoreError

log = logging.getLogger(__name__)

PLUGIN_RETRY_CHECK_S: Final = 0.5
MAKE_ROOM_AGAIN_S: Final = 5.0
NO_LEADER: Final = "no server leads at the moment"


class PluginRecovered(Exception):
    """Not an error: a reason to begin anew."""


class PluginGivenUp(Exception):
    """A reason to begin anew as a process, without this plugin."""

    def __init__(self, plugin: str, reason: str) -> None:
        super().__init__(reason)
        self.plugin = plugin


class Server:
    """See the module. Make it on the event loop; `start`, `ready`, then `stop`.

    seen: by this machine's own node. routes: which of plugins' routes can be served; refuses the other plugins. It may
    raise what it wants.
    """

    def __init__(
        self,
        settings: Settings,
        plugins: PluginHost,
        store: Store,
        store_url: str,
        seen: Seen | None = None,
        routes: Callable[[Settings, PluginHost, Host], list[tuple[str, Routes]]] = lambda *_: [],
    ) -> None:
        self.settings = settings
        self.plugins = plugins
        self.cluster_name = settings.cluster.name
        self.address = settings.server.listen
        scheme = "https" if settings.server.auth == "on" else "http"
        self.url = f"{scheme}://{settings.server.advertise or settings.server.listen}"
        self.version = orlop.__version__
        self.store_url = store_url
        self.started_utc_ms = read_clock().utc_ms
        self.failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self.agent: Agent | None = None
        self._leadership: Leadership | None = None
        self._last_led: tuple[State, int] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._changed = asyncio.Event()
        self._making_room: asyncio.Task[None] | None = None
        self.host = Host(
            cluster_name=self.cluster_name,
            address=self.address,
            version=self.version,
            state=self.state,
            explainer=lambda state, task: self._parts.kernel.explain(state, task),
            clock=read_clock,
            open_engine=lambda node: self.remote.open_engine(node),
        )
        self.remote = RemoteAgents(
            auth=settings.server.auth == "on",
            state=self.state,
            command=self.host.command,
            serve=self._serve_agent,
            clock=read_clock,
        )
        kernel, classes, self.routes = self._hooks(routes)
        self._parts = Parts(
            store=store,
            kernel=kernel,
            plugins=plugins,
            classes=classes,
            host=self.host,
            bridge=Bridge(asyncio.get_running_loop()),
            metrics=Metrics(),
            handler_timeout_s=settings.server.handler_timeout_s,
            url=self.url,
            liveness=_liveness(settings.cluster),
        )
        self.metrics = self._parts.metrics.registry
        own_classes = {name: framework for name, (_, framework) in classes.items()}
        self._candidate = self._make_candidate(store, own_classes, seen)

    def _hooks(
        self, usable: Callable[[Settings, PluginHost, Host], list[tuple[str, Routes]]]
    ) -> tuple[Kernel, dict[str, tuple[str, type[Framework]]], list[tuple[str, Routes]]]:
        """What plugins add, once all their hooks have been called: a plugin is on or off as a whole, so that one that
        fails in its last hook has neither filters nor a framework."""
        self.plugins.refuse_namesakes()
        classes = self._framework_classes()
        placing: dict[str, tuple[Sequence[NodeFilter], Sequence[NodeScorer]]] = {}
        for plugin in self.plugins.names():
            settings = self.plugins.settings_of(plugin)
            filters = self.plugins.call(plugin, "node_filters", settings=settings) or ()
            placing[plugin] = (filters, self.plugins.call(plugin, "node_scorers", settings=settings) or ())
        routes = usable(self.settings, self.plugins, self.host)
        on = self.plugins.names()
        kernel = Kernel(
            [one for plugin in on for one in placing[plugin][0]], [one for plugin in on for one in placing[plugin][1]]
        )
        return (
            kernel,
            {name: (plugin, framework) for name, (plugin, framework) in classes.items() if plugin in on},
            [(plugin, one) for plugin, one in routes if plugin in on],
        )

    def _framework_classes(self) -> dict[str, tuple[str, type[Framework]]]:
        found: dict[str, tuple[str, type[Framework]]] = {}
        for plugin, classes in self.plugins.collect("frameworks"):
            for framework in classes:
                if framework.name in found:  # it says another thing than before
                    self.plugins.refuse(plugin, f"its framework {framework.name} has the name of another plugin's")
                else:
                    found[framework.name] = (plugin, framework)
        return found

    def _make_candidate(self, store: Store, classes: Mapping[str, type[Framework]], seen: Seen | None) -> Candidate:
        shared = not store.exclusive
        bridge = self._parts.bridge
        return Candidate(
            store=store,
            classes=classes,
            settings=ElectionSettings.of_lease(self.settings.cluster.lease_s)
            if shared
            else ElectionSettings(lease_ms=None),
            record=LeaderRecord(server=secrets.token_hex(8), url=self.url, since_utc_ms=self.started_utc_ms),
            clock=lambda: read_clock().monotonic_ms,
            utc_ms=lambda: read_clock().utc_ms,
            begin=lambda term: bridge.call(lambda: self._begin(term)),
            end=lambda reason: bridge.call(lambda: self._end(reason)),
            fatal=lambda error: bridge.call(lambda: self._fail(self._blamed(error))),
            no_room=lambda reason: bridge.call(lambda: self._no_room(reason)),
            seen=seen,
        )

    # Its life

    def start(self) -> None:
        """Takes part in the election."""
        self._candidate.start()
        self._run(self._retry_plugins())

    async def ready(self) -> None:
        """Returns when it leads, or knows what the leader knows, or has failed."""
        while not self.failed.done() and self._leadership is None:
            if not self._parts.store.exclusive and self._candidate.mirror.serves:
                return
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), 0.1)
            except TimeoutError:
                continue

    async def stop(self) -> None:
        """Writes what was decided, and gives the lead away. Tasks go on."""
        for task in self._background | ({self._making_room} if self._making_room is not None else set()):
            task.cancel()
        leadership, self._leadership = self._leadership, None
        if leadership is not None:
            await leadership.stop(self._why_it_stops())
        await asyncio.to_thread(self._candidate.stop)

    def _why_it_stops(self) -> str:
        return f"this server begins anew: {self.failed.result()}" if self.failed.done() else "this server stops"

    def _run(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _fail(self, error: Exception) -> None:
        if not self.failed.done():
            self.failed.set_result(error)
        self._changed.set()

    def _blamed(self, error: Exception) -> Exception:
        """Why no term can begin. Where a plugin cannot read its own objects, one can begin without it."""
        if isinstance(error, ObjectUnreadable):
            plugin, _ = self._parts.classes[error.framework]
            return PluginGivenUp(plugin, str(error))
        return error

    def _begin(self, term: Term) -> None:
        level = logging.INFO if self._parts.store.exclusive else logging.WARNING  # for whoever looks for it at night
        log.log(level, "this server leads: epoch %d.%d", term.epoch.generation, term.epoch.revision)
        leadership = Leadership(term, self._parts, self._term_failed, self._candidate.leads, self._give_up)
        leadership.start()
        self._leadership = leadership
        self._candidate.mirror.forget()
        self._changed.set()

    def _no_room(self, reason: str) -> None:
        """Nobody can lead in a full store, so whoever would makes room, one at a time."""
        if self._making_room is None or self._making_room.done():
            log.warning("no server can lead (%s): this one gives up the store's history", reason)
            self._making_room = asyncio.get_running_loop().create_task(self._make_room())

    async def _make_room(self) -> None:
        try:
            await asyncio.to_thread(self._parts.store.make_room)
        except StoreError as error:
            log.warning("there is no more room yet: %s", error)
        await asyncio.sleep(MAKE_ROOM_AGAIN_S)

    def _term_failed(self, error: Exception) -> None:
        self._candidate.give_up(str(error))

    def _give_up(self, plugin: str, reason: str) -> None:
        self._fail(PluginGivenUp(plugin, reason))

    def _end(self, reason: str) -> None:
        leadership, self._leadership = self._leadership, None
        if leadership is not None:
            log.warning("this server leads no more: %s", reason)
            self._last_led = (leadership.state(), self._candidate.led_until_ms)
            leadership.abandon(reason)
            self.remote.streams.let_go()

    async def _retry_plugins(self) -> None:
        """Tries failed plugins again; when one has recovered, everything begins anew with it (tasks go on)."""
        while True:
            await next_tick(PLUGIN_RETRY_CHECK_S)
            for name in self.plugins.due_retries(time.monotonic()):
                if await asyncio.to_thread(self._recovers, name):
                    self._fail(PluginRecovered(f"plugin {name} has recovered"))

    def _recovers(self, name: str) -> bool:
        """Does it load now, and answer all the hooks that a server begins with?"""
        if self.plugins.retry(name).state != "loaded":
            return False
        self.plugins.refuse_namesakes(only=name)
        settings = self.plugins.settings_of(name)
        self.plugins.call(name, "frameworks")
        self.plugins.call(name, "node_filters", settings=settings)
        self.plugins.call(name, "node_scorers", settings=settings)
        self.plugins.call(name, "routes", host=self.host, settings=settings)
        return name in self.plugins.names()

    # Agents

    async def connect_local_agent(self) -> AgentEnd:
        """A session for an agent in this process. Raises LinkClosed while this server does not lead."""
        if self._leadership is None:
            raise LinkClosed("this server does not lead")
        return await self._leadership.connect_local_agent()

    async def _serve_agent(self, link: Link[ToAgent, ToServer]) -> None:
        """A session for an agent elsewhere, until it ends."""
        if self._leadership is None:
            link.close("this server does not lead")
            return
        await self._leadership.serve_agent(link)

    # What the operator API uses

    def role(self) -> Role:
        """What it is at this moment."""
        if self._leadership is not None and self._candidate.leads():
            return Role(leads=True, leader_url=self.url)
        mirror = self._candidate.mirror
        leader = mirror.leader()
        own = leader is not None and leader.url == self.url
        remembered = self._remembered()
        return Role(
            leads=False,
            leader_url=leader.url if leader is not None and not own else "",
            stale_ms=max(0, read_clock().monotonic_ms - remembered[1]) if remembered else mirror.age_ms(),
            reason=mirror.error or (mirror.newer or NO_LEADER if leader is None or own else ""),
        )

    def state(self) -> State:
        """The newest durable state that this server knows. Raises NotAvailable before it knows any."""
        if self._leadership is not None:
            return self._leadership.state()
        remembered = self._remembered()
        if remembered is not None:
            return remembered[0]
        mirror = self._candidate.mirror
        try:
            state = mirror.state()
        except DocumentError as error:
            raise NotAvailable(f"this server cannot read the state: {error}") from error
        if state is None:
            raise NotAvailable(f"this server has no state yet: {mirror.error or NO_LEADER}")
        return state

    def _remembered(self) -> tuple[State, int] | None:
        """What it knew as the leader, and until when that held, while the store cannot be read since."""
        return self._last_led if not self._candidate.mirror.loaded else None

    def stored_authorities(self) -> dict[str, StoredAuthority]:
        """As far as this server knows; on a standby without making a whole state. Raises NotAvailable."""
        if self._leadership is not None or self._remembered() is not None:
            return admission.stored_authorities(self.state())
        return self._candidate.mirror.objects(admission.Admission, AUTHORITY, (CURRENT, NEXT, FORMER))

    def framework_status(self) -> Mapping[str, FrameworkStatus]:
        """Of the leader's frameworks; none on a standby."""
        return self._leadership.framework_status() if self._leadership is not None else {}

    def read_only_reason(self) -> str:
        """Why writes are refused; empty when they are not."""
        return self._leadership.read_only_reason() if self._leadership is not None else self.role().reason or NO_LEADER

    def store_trouble(self) -> str:
        """What the store lacks room for, or soon will, as far as the leader knows; empty when there is enough."""
        return self._leadership.store_trouble() if self._leadership is not None else ""

    def clocks(self) -> Clocks:
        """How far nodes' clocks are from the leader's; nothing is known on a standby."""
        return self._leadership.clocks() if self._leadership is not None else Clocks()

    def deciding(self) -> Work | None:
        """What its kernel decides at this moment, while it leads. May be asked from any thread."""
        leadership = self._leadership
        return leadership.deciding() if leadership is not None else None

    def hand_over(self) -> None:
        """Lets another server lead, if there can be another, at once. May be called from any thread but the loop's."""
        if not self._parts.store.exclusive:
            self._candidate.stop()

    def explain(self, task: Task) -> Explanation:
        return self._parts.kernel.explain(self.state(), task)

    async def submit(self, event: DrainNode | ForgetNode | KillTask) -> Any:
        """The answer, or True where there is none, after the commit. Raises NotAvailable."""
        return await self._leading().submit(event)

    def _leading(self) -> Leadership:
        if self._leadership is None:
            raise NotAvailable(f"nothing was changed: {NO_LEADER}")
        return self._leadership

    async def backup(self) -> bytes:
        """A backup's file. Raises NotAvailable."""
        self._leading()
        try:
            return await asyncio.to_thread(self._backup)
        except (StoreError, archive.BackupError) as error:
            raise NotAvailable(f"the state cannot be read: {error}") from error

    def _backup(self) -> bytes:
        file = io.BytesIO()
        archive.write(archive.take(self._parts.store, utc_ms=read_clock().utc_ms, orlop_version=self.version), file)
        return file.getvalue()

    async def log_entries(
        self, *, after: tuple[int, int] | None, limit: int, subject: str | None = None
    ) -> tuple[list[tuple[int, int, LogEntry]], bool]:
        """Entries of the event log: (version, index, entry), ascending, and whether some were dropped before."""
        return await self._leading().log.entries(
            after=after,
            limit=limit,
            wanted=lambda entry: subject is None or entry.subject == subject,
            version=self.state().version,
        )

    def follow_log(self) -> AbstractContextManager[asyncio.Queue[Logged | None]]:
        return self._leading().log.follow()

    def task_output(self, task: Task, stream: str, *, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        """Raises NotAvailable when the task's node cannot be reached from here."""
        if task.placement is None:
            raise NotAvailable("the task is not on a node yet, so it has no output")
        runtime = self.state().spec_of(task).runtime
        return self._output(task.placement.node, task.id, runtime, stream, follow=follow, tail=tail)

    async def kept_output(self, node: Node, task: str, stream: str, *, tail: int | None) -> AsyncIterator[bytes]:
        """Of a task that the state has forgotten, with its runtime. Raises LookupError, NotAvailable."""
        missing = LookupError(f"node {node.info.name} has no runtime")
        for runtime in node.info.runtimes:
            try:
                async for piece in self._output(node.id, task, runtime, stream, follow=False, tail=tail):
                    yield piece
                return
            except LookupError as error:
                missing = error
        raise missing

    def _output(
        self, node_id: str, task: str, runtime: str, stream: str, *, follow: bool, tail: int | None
    ) -> AsyncIterator[bytes]:
        if self.agent is not None and self.agent.node_id == node_id:
            return self.agent.output(task, runtime, stream, follow=follow, tail=tail)
        return self.remote.output(node_id, task, runtime, stream, follow=follow, tail=tail)


def _liveness(settings: ClusterSettings) -> LivenessSettings:
    return LivenessSettings(
        unreachable_after_ms=round(settings.unreachable_after_s * 1000),
        gone_after_ms=round(settings.gone_after_s * 1000),
        crash_grace_ms=round(settings.crash_grace_s * 1000),
        restart_grace_ms=round(settings.restart_grace_s * 1000),
    )

"""The node's shell: moves messages, reports and timers into the worker, and does what the worker says.

Everything runs on one event loop. One inbox takes what comes from the session, the runtimes, the probes and the
timers; a batch of it is decided at once, its records are written in one transaction, and only then are its effects
carried out. Sessions come and go; the inbox and the worker stay.

While the records cannot be written, for a full disk say, nothing is started, forgotten or reported; what runs goes
on, signals are sent, and the hello says that no runtime can be used here, and why.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import attrs

from orlop.agent import decisions
from orlop.agent.engine_service import connect_engine
from orlop.agent.facts import FactsTelling
from orlop.agent.probes import ProbeRunner
from orlop.agent.records import AgentRecords, CannotSave, NodeIdentity
from orlop.agent.runtimes.interface import (
    Connection,
    InvalidPayload,
    Launch,
    Phase,
    Report,
    Runtime,
    RuntimeContext,
    RuntimeEvent,
    Snapshot,
    Unavailable,
)
from orlop.agent.saving import Held, Unsaved
from orlop.agent.session import Link, LinkClosed
from orlop.agent.stream_service import serve_stream
from orlop.agent.streams import StreamEnd
from orlop.agent.worker import Worker
from orlop.model.clock import Now
from orlop.model.facts import NodeFacts
from orlop.model.messages import (
    CLOCK,
    RENEW,
    Assignment,
    Assignments,
    ClockReading,
    Facts,
    Goodbye,
    Heartbeat,
    Hello,
    OpenStreams,
    Received,
    Refused,
    RenewCertificate,
    Statuses,
    ToAgent,
    ToServer,
    Welcome,
)
from orlop.model.nodes import NodeInfo
from orlop.model.tasks import Exit, Outcome, ProbeResult, Status

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 1.5
#: Heartbeats from one telling of the node's clock to the next.
CLOCK_EVERY_BEATS: Final = 40
RECONNECT_S: Final = 0.5
BATCH_EVENTS_MAX: Final = 200
SAVE_AGAIN_S: Final = 1.0

Connect = Callable[[], Awaitable[Link[ToServer, ToAgent]]]
#: Dials the stream of this id. Raises OSError.
DialStream = Callable[[str], Awaitable[StreamEnd]]


def read_clock() -> Now:
    """The shell's clock."""
    return Now(utc_ms=time.time_ns() // 1_000_000, monotonic_ms=time.monotonic_ns() // 1_000_000)


class Agent:
    """One node.

    info: all but its runtimes, which it finds out itself; as unavailable those that are wanted and that there are not.
    connect: dials the leader. dial_stream: as the leader asks, None where streams need no dialling. renew: takes the
    cluster's word on which certificate this node shall have.
    """

    def __init__(
        self,
        *,
        info: NodeInfo,
        records: AgentRecords,
        identity: NodeIdentity,
        context: RuntimeContext,
        runtimes: Sequence[Runtime],
        connect: Connect,
        dial_stream: DialStream | None = None,
        renew: Callable[[RenewCertificate], None] | None = None,
    ) -> None:
        self._info = info
        self._records = records
        self._identity = identity
        self._context = context
        self._connect = connect
        self._dial_stream = dial_stream
        self._renew = renew
        self._runtimes = {runtime.name: runtime for runtime in runtimes}
        self._available: set[str] = set()
        self._unavailable: dict[str, str] = {}
        self._facts = FactsTelling()
        self._worker = Worker(self._runtimes, records.tasks(), records.epoch())
        self._inbox: asyncio.Queue[decisions.Event] = asyncio.Queue()
        self._link: Link[ToServer, ToAgent] | None = None
        self._tells_clock = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._unsaved = Unsaved()
        self._held = Held()
        self._cannot_save = ""
        self._background: set[asyncio.Task[Any]] = set()
        self._probes = ProbeRunner(self._probed, self._run_command, read_clock)

    @property
    def node_id(self) -> str:
        return self._info.id

    async def run(self) -> None:
        """Until cancelled: opens the runtimes, then keeps a session. What runs goes on after it."""
        try:
            await asyncio.gather(*(self._open(runtime) for runtime in self._runtimes.values()))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._decide_forever())
                group.create_task(self._keep_session())
        finally:
            await self._close()

    async def _close(self) -> None:
        if self._link is not None:
            try:
                self._link.send(Goodbye())
            except LinkClosed:
                pass
            self._link.close("the agent stops")
        for handle in self._timers.values():
            handle.cancel()
        for task in self._background:
            task.cancel()
        await self._probes.close()
        for runtime in self._runtimes.values():
            await runtime.close()
        self._records.close()

    async def _open(self, runtime: Runtime) -> None:
        try:
            if hasattr(runtime, "follow_facts"):
                runtime.follow_facts(self._facts_changed)
            await runtime.open(self._runtime_event)
        except Exception as error:
            log.exception("the %s runtime cannot be opened", runtime.name)
            self._unavailable[runtime.name] = f"it cannot be opened: {type(error).__name__}: {error}"

    def _runtime_event(self, event: RuntimeEvent) -> None:
        before = dict(self._unavailable), frozenset(self._available)
        if isinstance(event, Snapshot):
            self._available.add(event.runtime)
            self._unavailable.pop(event.runtime, None)
        elif isinstance(event, Unavailable):
            self._available.discard(event.runtime)
            self._unavailable[event.runtime] = event.reason
            log.warning("the %s runtime is not available: %s", event.runtime, event.reason)
        self._inbox.put_nowait(event)
        if (self._unavailable, self._available) != before and self._link is not None:
            self._hello(self._link)

    def _facts_changed(self, facts: NodeFacts) -> None:
        self._tell_facts(self._facts.changed(facts))

    def _tell_facts(self, message: Facts | None) -> None:
        if message is not None and self._link is not None:
            try:
                self._link.send(message)
            except LinkClosed:
                pass  # the next session is told all

    # The session

    async def _keep_session(self) -> None:
        self._inbox.put_nowait(decisions.ServerAway())
        while True:
            link = None
            try:
                link = await self._connect()
                await self._serve(link)
            except (LinkClosed, OSError) as error:
                log.info("the session with the server ended: %s", error)
            self._link = None
            self._inbox.put_nowait(decisions.ServerAway())
            if link is not None:
                link.close()
            await asyncio.sleep(RECONNECT_S)

    async def _serve(self, link: Link[ToServer, ToAgent]) -> None:
        self._tells_clock = False
        self._hello(link)
        self._link = link
        beat = asyncio.create_task(self._beat(link))
        try:
            while True:
                self._take(await link.receive())
        finally:
            beat.cancel()

    def _hello(self, link: Link[ToServer, ToAgent]) -> None:
        unavailable = {**self._info.unavailable, **self._unavailable}
        if self._cannot_save:
            unavailable |= dict.fromkeys(self._available, self._cannot_save)
        info = attrs.evolve(
            self._info,
            runtimes=tuple(sorted(self._available - unavailable.keys())),
            unavailable=dict(sorted(unavailable.items())),
        )
        hello = Hello(
            node=info,
            cluster_id=self._identity.cluster_id,
            statuses=self._worker.statuses(),
            understands=(RENEW,) if self._renew is not None else (),
            facts=self._facts.hello(),
        )
        try:
            link.send(hello)
        except LinkClosed as error:
            log.info("hello was not sent: %s", error)

    def _take(self, message: ToAgent) -> None:
        match message:
            case Welcome():
                self._welcome(message)
                self._inbox.put_nowait(decisions.ServerHere())
                self._tell_facts(self._facts.welcomed(message.understands, known=message.facts))
                self._tells_clock = CLOCK in message.understands
                self._tell_clock()
            case Refused():
                log.error("the server refused this node: %s", message.reason)
                raise LinkClosed(message.reason)
            case Assignments() | Received():
                self._inbox.put_nowait(message)
            case OpenStreams():
                for stream_id in message.ids:
                    self._spawn(self._serve_stream(stream_id))
            case RenewCertificate():
                if self._renew is not None:
                    self._renew(message)

    def _welcome(self, message: Welcome) -> None:
        known = self._identity.cluster_id
        if known not in ("", message.cluster_id):
            log.error("the server is of cluster %s, and this node belongs to %s", message.cluster_id, known)
            raise LinkClosed(f"this node belongs to cluster {known}")
        if self._worker.is_deposed(message.epoch):
            raise LinkClosed("this server does not know yet that another one leads")
        if not known:
            self._identity = attrs.evolve(self._identity, cluster_id=message.cluster_id)
            self._records.save_identity(self._identity)

    async def _beat(self, link: Link[ToServer, ToAgent]) -> None:
        for beat in itertools.count(1):
            await asyncio.sleep(HEARTBEAT_S)
            link.send(Heartbeat())
            if beat % CLOCK_EVERY_BEATS == 0:
                self._tell_clock()

    def _tell_clock(self) -> None:
        if self._tells_clock and self._link is not None:
            with contextlib.suppress(LinkClosed):
                self._link.send(ClockReading(utc_ms=read_clock().utc_ms))

    # Deciding and doing

    async def _decide_forever(self) -> None:
        while True:
            events = await self._next_events()
            now = read_clock()
            effects = [effect for event in events for effect in self._worker.handle(event, now)]
            self._unsaved.add(effects)
            try:
                self._unsaved.save(self._records)
            except CannotSave as error:
                self._note_saving(str(error))
                effects = self._held.hold(effects)
            else:
                self._note_saving("")
                effects = [*self._held.take(), *effects]
            self._carry_out(effects)

    async def _next_events(self) -> list[decisions.Event]:
        """None for a while, too, while there is something that could not be saved."""
        try:
            async with asyncio.timeout(SAVE_AGAIN_S if self._cannot_save else None):
                events = [await self._inbox.get()]
        except TimeoutError:
            return []
        while not self._inbox.empty() and len(events) < BATCH_EVENTS_MAX:
            events.append(self._inbox.get_nowait())
        return events

    def _note_saving(self, reason: str) -> None:
        if reason == self._cannot_save:
            return
        self._cannot_save = reason
        if reason:
            log.error("nothing is started or forgotten here until that is mended: %s", reason)
        else:
            log.warning("the node's records can be written again")
        if self._link is not None:
            self._hello(self._link)

    def _carry_out(self, effects: Iterable[decisions.Effect]) -> None:
        statuses: dict[tuple[str, int], Status] = {}
        for effect in effects:
            match effect:
                case decisions.Tell():
                    for status in effect.statuses:
                        statuses[status.task, status.incarnation] = status
                case decisions.Start():
                    self._spawn(self._start(effect.assignment))
                case decisions.Signal():
                    self._spawn(self._runtimes[effect.runtime].signal(effect.task, effect.signal))
                case decisions.KillNow():
                    self._spawn(self._runtimes[effect.runtime].kill(effect.task))
                case decisions.Remove():
                    if effect.runtime in self._runtimes:
                        self._spawn(self._runtimes[effect.runtime].remove(effect.task))
                case decisions.Watch():
                    self._watch(effect)
                case decisions.Unwatch():
                    self._probes.stop(effect.task)
                case decisions.SetTimer():
                    self._set_timer(effect)
        if statuses and self._link is not None:
            try:
                self._link.send(Statuses(items=tuple(statuses.values())))
            except LinkClosed:
                pass  # the next hello carries them

    async def _start(self, assignment: Assignment) -> None:
        launch = Launch(assignment=assignment, directory=self._context.tasks / assignment.task)
        try:
            await self._runtimes[assignment.spec.runtime].start(launch)
        except InvalidPayload as error:
            self._failed_to_start(assignment, str(error))
        except Exception as error:
            log.exception("task %s could not be started", assignment.task)
            self._failed_to_start(assignment, f"{type(error).__name__}: {error}")

    def _failed_to_start(self, assignment: Assignment, reason: str) -> None:
        exit_ = Exit(outcome=Outcome.ERROR, reason=reason)
        report = Report(task=assignment.task, incarnation=assignment.incarnation, phase=Phase.ENDED, exit=exit_)
        self._inbox.put_nowait(report)

    def _watch(self, effect: decisions.Watch) -> None:
        if effect.assignment.spec.probes:
            self._probes.start(
                effect.assignment,
                effect.status.incarnation,
                effect.status.at_utc_ms,
                self._info.address,
                effect.status.probes,
                effect.status.addresses,
            )

    def _set_timer(self, effect: decisions.SetTimer) -> None:
        known = self._timers.pop(effect.token, None)
        if known is not None:
            known.cancel()
        loop = asyncio.get_running_loop()
        self._timers[effect.token] = loop.call_later(effect.delay_ms / 1000, self._timer_due, effect.token)

    def _timer_due(self, token: str) -> None:
        self._timers.pop(token, None)
        self._inbox.put_nowait(decisions.TimerDue(token))

    def _spawn(self, work: Awaitable[None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except Exception:
                log.exception("a runtime failed")

        task = asyncio.get_running_loop().create_task(guarded())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # Probes, output, streams

    async def _serve_stream(self, stream_id: str) -> None:
        if self._dial_stream is None:
            return
        try:
            stream = await self._dial_stream(stream_id)
        except OSError as error:
            log.info("a stream that the server asked for could not be made: %s", error)
            return
        await self.serve_stream(stream)

    async def serve_stream(self, stream: StreamEnd) -> None:
        """Does what the other end asks for, until the stream ends."""
        await serve_stream(stream, self._runtimes)

    async def connect_engine(self) -> Connection:
        """A connection to this node's engine. Raises LookupError (it has none), ConnectionError, ValueError."""
        return await connect_engine(self._runtimes)

    def _probed(self, task: str, incarnation: int, results: tuple[ProbeResult, ...]) -> None:
        self._inbox.put_nowait(decisions.ProbesChanged(task=task, incarnation=incarnation, results=results))

    async def _run_command(self, task: str, command: str, timeout_s: float) -> tuple[int, str]:
        record = self._worker.records[task]
        return await self._runtimes[record.assignment.spec.runtime].run_command(task, command, timeout_s)

    def output(self, task: str, runtime: str, stream: str, *, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        """A task's output, live or kept. Raises LookupError."""
        if runtime not in self._runtimes:
            raise LookupError(f"this node has no {runtime} runtime")
        return self._runtimes[runtime].logs(task, stream, follow=follow, tail=tail)

"""The `docker` runtime: each task is a container of this node's engine, made from a raw Engine API create body.

Theory of operation. The engine is the truth. A `Follower` thread keeps the event stream; every (re)connection
lists our containers, found by their labels, which becomes the `Snapshot`. Afterwards an event is only a hint that
a container may have changed: it is inspected, and what is seen is reported. So events that are doubled, late or
replayed do no harm. A record per task remembers what was last reported, so that each fact is reported once, and
holds a lock: operations and events of one task run in the order in which they came, those of different tasks side
by side. A start that fails reports its end itself.

An inspection waits for an engine that is busy with the container, most of all at its end. It is spared where it
cannot tell more than is known: RUNNING is reported when the engine has answered the start, unless the container
has addresses to ask for; and the `die` event of a container that nobody has meddled with carries its exit code.

A start survives the engine's absence: it is tried again after the reconnection, and since the container's name is
fixed a second try meets what the first one left (409) and adopts it. Until its container exists, such a start is
part of each snapshot as PREPARING. Its artefacts are there before its container is made. A signal or kill that comes
before the engine was asked to start the container abandons the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Final

import attrs

from orlop.agent.runtimes import docker_container as container_json
from orlop.agent.runtimes import docker_sandbox
from orlop.agent.runtimes.docker_access import Access, kept_since
from orlop.agent.runtimes.docker_connection import DirectConnection, connect_directly
from orlop.agent.runtimes.docker_container import Identity
from orlop.agent.runtimes.docker_engine import BACKOFF_FIRST_S, Follower
from orlop.agent.runtimes.docker_errors import EngineLost, EngineRefused, engine_errors
from orlop.agent.runtimes.docker_exec import execute_in
from orlop.agent.runtimes.docker_following import FactsFollower
from orlop.agent.runtimes.docker_record import NOTED, Record
from orlop.agent.runtimes.docker_starting import NEVER_STARTED, WAITING_FOR_ENGINE, Starting
from orlop.agent.runtimes.interface import (
    Execution,
    Launch,
    Phase,
    Report,
    RuntimeContext,
    RuntimeEvent,
    Snapshot,
    Unavailable,
    UnknownTask,
)
from orlop.model.facts import NodeFacts
from orlop.model.streams import CommandRequest
from orlop.model.tasks import Exit, Outcome

_log = logging.getLogger(__name__)

#: The node does not wait longer for an engine before it begins its other work.
OPEN_WITHIN_S: Final = 5.0
INSPECTIONS_AT_ONCE: Final = 4
KEEP_AFTER_S: Final = 0.5
SWEEP_AFTER_S: Final = 1.0
_ALIVE: Final = frozenset({Phase.PREPARING, Phase.PREPARED, Phase.STARTING, Phase.RUNNING})
_TOLD_AGAIN: Final = frozenset({Phase.PREPARED, Phase.RUNNING, Phase.ENDED})
_EVENTS: Final = frozenset({"start", "die", "destroy"})


class DockerRuntime:
    """See the module."""

    name = "docker"

    def __init__(self, context: RuntimeContext) -> None:
        self._context = context
        self._engine = Access(context)
        self._starting = Starting(context, self._engine, self._report, self._is_stopping)
        self._records: dict[str, Record] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._inspections = asyncio.Semaphore(INSPECTIONS_AT_ONCE)
        self._first_event = asyncio.Event()
        self._first_facts = asyncio.Event()
        self._changes = 0
        self._sweep_set = False
        self._follower: Follower | None = None
        self._facts: FactsFollower | None = None
        self._tell_facts: Callable[[NodeFacts], None] | None = None
        self._report_to: Callable[[RuntimeEvent], None] = lambda _event: None

    def follow_facts(self, tell: Callable[[NodeFacts], None]) -> None:
        """See `HasFacts`."""
        self._tell_facts = tell

    async def open(self, report: Callable[[RuntimeEvent], None]) -> None:
        """See `Runtime`."""
        loop = asyncio.get_running_loop()
        self._report_to = report

        def on_loop(function: Callable[..., None], *arguments: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop may have been closed meanwhile
                loop.call_soon_threadsafe(function, *arguments)

        def connected(client: Any, looking: Any, listing: list[dict[str, Any]]) -> None:
            mark = self._changes
            on_loop(self._on_connected, client, self._reports_of(looking, listing), mark)
            on_loop(self._remove_surplus, listing)

        self._follower = Follower(
            self._context.docker,
            self._context.node_id,
            NOTED | _EVENTS,
            on_connected=connected,
            on_event=functools.partial(on_loop, self._on_event),
            on_lost=functools.partial(on_loop, self._on_lost),
        )
        self._follower.start()
        if self._tell_facts is not None:
            tell = functools.partial(on_loop, self._on_facts)
            self._facts = FactsFollower(self._context.docker, self._context.cluster_id, tell)
            self._facts.start()
        try:
            async with asyncio.timeout(OPEN_WITHIN_S):
                await self._first_event.wait()
                if self._facts is not None and self._engine.connected.is_set():
                    await self._first_facts.wait()  # the node's first hello shall tell of them
        except TimeoutError:
            if not self._first_event.is_set():
                self._on_lost(f"the Docker Engine at {self._context.docker} has not answered yet")

    async def close(self) -> None:
        """See `Runtime`."""
        for follower in (self._facts, self._follower):
            if follower is not None:
                await asyncio.to_thread(follower.close)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._engine.connected.clear()
        self._engine.close()

    def _on_facts(self, facts: NodeFacts) -> None:
        self._first_facts.set()
        if self._tell_facts is not None:
            self._tell_facts(facts)

    # The engine comes and goes

    def _reports_of(self, client: Any, listing: list[dict[str, Any]]) -> list[Report]:
        """On the follower's thread. Only what has ended is inspected: a listing does not tell exit codes."""
        found: list[Report] = []
        for item in listing:
            identity = container_json.identity_of(item.get("Labels"), self._context)
            if identity is None or kept_since(item) is not None:
                continue
            if item["State"] in ("running", "paused"):
                inspected = {**item, "State": {"Status": item["State"], "Running": True}}
            else:
                try:
                    with engine_errors():
                        inspected = client.inspect_container(item["Id"])
                except EngineRefused:
                    continue
            if (seen := container_json.report_of(inspected, identity)) is not None:
                found.append(seen)
        return found

    def _on_connected(self, client: Any, reports: list[Report], mark: int) -> None:
        seen = {report.task for report in reports}
        for task, record in list(self._records.items()):
            record.undisturbed = False  # nobody knows what happened while the stream was broken
            if task in seen:
                continue
            if record.starting:
                reports.append(record.last or record.saying(Phase.PREPARING, message=WAITING_FOR_ENGINE))
            elif record.last is not None and record.changed > mark:
                reports.append(record.last)  # it came after the listing was asked for
            else:
                del self._records[task]
        for report in reports:
            record = self._record(Identity(report.task, report.incarnation))
            if record.incarnation == report.incarnation:
                record.container = report.external_id or record.container
                record.last = report
        self._engine.use(client)
        self._engine.unavailable = ""
        self._report_to(Snapshot(runtime=self.name, reports=tuple(reports)))
        self._engine.lost.clear()
        self._engine.connected.set()
        self._first_event.set()

    def _remove_surplus(self, listing: list[dict[str, Any]]) -> None:
        self._spawn(self._engine.remove_surplus(listing))

    def _on_lost(self, reason: str) -> None:
        self._engine.connected.clear()
        if not self._engine.lost.is_set():
            self._engine.lost.set()
            self._starting.engine_lost()
            self._engine.pools.renew_pull()
        if reason != self._engine.unavailable:
            self._engine.unavailable = reason
            self._report_to(Unavailable(runtime=self.name, reason=reason))
        self._first_event.set()

    def _on_event(self, event: Mapping[str, Any]) -> None:
        action, container, labels = event["Action"], event["Actor"]["ID"], event["Actor"]["Attributes"]
        identity = container_json.identity_of(labels, self._context)
        if identity is None or container_json.kept_since(labels.get("name", "")) is not None:
            return
        if action != "start" and identity.task not in self._records:
            return
        record = self._record(identity)
        if record.incarnation != identity.incarnation:
            return
        if container == record.container:
            record.note(action, labels)
        if action in _EVENTS:
            self._spawn(self._follow_event(record, action, container, labels))

    async def _follow_event(self, record: Record, action: str, container: str, labels: Mapping[str, str]) -> None:
        async with record.lock:
            if container != (record.container or container):
                return  # of an earlier container of the same name
            if action != "start" and record.phase in (Phase.ENDED, None):
                if action == "destroy" and record.last is not None and record.last.remains:
                    self._report(record, attrs.evolve(record.last, remains=False))
                return
            if action == "destroy":
                self._emit(record, Phase.ENDED, exit=container_json.REMOVED_BY_OTHERS)
                return
            if record.undisturbed and self._is_told(record, action, labels):
                return
            seen = await self._inspect(container, record.identity)
            if action == "start":
                self._follow_start(record, container, seen)
            elif seen is None:
                code = int(labels.get("exitCode", 0))
                ended = container_json.exit_of_removed(code, killed=record.killed)
                self._emit(record, Phase.ENDED, exit=ended)
            else:
                self._report(record, seen)

    def _is_told(self, record: Record, action: str, labels: Mapping[str, str]) -> bool:
        """Does the event itself say all that is to be reported? Then it has been."""
        if action == "die":
            ended = container_json.exit_of_event(labels, out_of_memory=record.out_of_memory)
            if ended is not None:
                self._emit(record, Phase.ENDED, exit=ended, remains=True)
            return ended is not None
        return action == "start" and record.phase is Phase.RUNNING

    def _follow_start(self, record: Record, container: str, seen: Report | None) -> None:
        running = seen is not None and seen.phase is Phase.RUNNING
        if record.phase is Phase.ENDED and not running:
            return  # old news
        record.container = container
        if running and seen is not None:
            self._report(record, seen)
        else:  # it ran, if only for a moment; its end follows
            self._emit(record, Phase.RUNNING, external_id=container)

    async def _inspect(self, container: str, identity: Identity) -> Report | None:
        """None when it is gone or going. Raises EngineLost."""
        try:
            async with self._inspections:
                inspected = await self._engine.calls.inspect(container)
        except EngineRefused:
            return None
        return container_json.report_of(inspected, identity)

    # Starting

    async def start(self, launch: Launch) -> None:
        """See `Runtime`."""
        identity = Identity(launch.task, launch.assignment.incarnation)
        record = self._record(identity)
        if record.incarnation > identity.incarnation or record.starting:
            return
        if self._engine.connected.is_set() and record.last is not None and record.phase in _TOLD_AGAIN:
            self._report_to(record.last)
            return
        record.starting = True
        self._spawn(self._starting.start(record, launch))

    # What is asked of a task that exists

    async def signal(self, task: str, signal_name: str) -> None:
        """See `Runtime`."""
        self._stop(task, signal_name)

    async def kill(self, task: str) -> None:
        """See `Runtime`."""
        self._stop(task, "SIGKILL")

    def _stop(self, task: str, signal_name: str) -> None:
        record = self._records.get(task)
        if record is None:
            return
        record.stopping = True
        if record.starting:
            record.abandoned.set()
        if signal_name not in record.sending:  # a worker repeats itself for as long as the engine is away
            record.sending.add(signal_name)
            self._spawn(self._send(record, signal_name))

    def _is_stopping(self, task: str) -> bool:
        record = self._records.get(task)
        return record is not None and record.stopping

    async def _send(self, record: Record, signal_name: str) -> None:
        async with record.lock:
            try:
                while record.container and (record.phase in _ALIVE or self._remains(record)):
                    try:
                        await self._engine.connected.wait()
                        await self._deliver(record, signal_name)
                        return
                    except EngineLost:
                        await asyncio.sleep(BACKOFF_FIRST_S)
            finally:
                record.sending.discard(signal_name)

    @staticmethod
    def _remains(record: Record) -> bool:
        return record.last is not None and record.last.remains

    async def _deliver(self, record: Record, signal_name: str) -> None:
        control = self._engine.pools.control
        if record.last is not None and record.last.remains:  # to be gone, and not running already
            self._report(record, attrs.evolve(record.last, remains=False))
            return
        if record.phase in (Phase.PREPARING, Phase.PREPARED):  # never started
            await self._engine.discard(record.container, record.identity)
            self._emit(record, Phase.ENDED, exit=Exit(outcome=Outcome.KILLED, reason=NEVER_STARTED))
            return
        record.killed = record.killed or signal_name == "SIGKILL"
        try:
            await self._engine.call(control, "kill", record.container, signal_name)
        except EngineRefused as error:
            # 404, 409: not there, not running. Nothing is left to do, and its end is told by events.
            if error.status not in (404, 409) and record.last is not None:
                message = f"{signal_name} not delivered: {error}"
                self._report(record, attrs.evolve(record.last, message=message))

    async def remove(self, task: str) -> None:
        """See `Runtime`."""
        record = self._records.get(task)
        if record is not None and record.phase is Phase.ENDED and not record.starting:
            del self._records[task]
            self._spawn(self._forget(record))

    async def _forget(self, record: Record) -> None:
        """Not at once: the engine is busy with its end, and with what replaces it."""
        await asyncio.sleep(KEEP_AFTER_S)
        async with record.lock:
            if (directory := self._context.tasks / record.task).is_dir():
                await asyncio.to_thread(docker_sandbox.remove, directory)
            while record.container and not record.gone:
                try:
                    await self._engine.connected.wait()
                    await self._engine.keep(record.container, record.identity, stays_ended=record.undisturbed)
                    self._sweep_later()
                    return
                except EngineLost:
                    await asyncio.sleep(BACKOFF_FIRST_S)

    def _sweep_later(self) -> None:
        """Once for many that end together."""
        if not self._sweep_set:
            self._sweep_set = True
            self._spawn(self._sweep())

    async def _sweep(self) -> None:
        await asyncio.sleep(SWEEP_AFTER_S)
        self._sweep_set = False
        await asyncio.to_thread(docker_sandbox.prune, self._context.tasks, frozenset(self._records), time.time())
        await self._engine.sweep()

    async def run_command(self, task: str, command: str, timeout_s: float) -> tuple[int, str]:
        """See `Runtime`; also raises ConnectionError while the engine is away."""
        record = self._records.get(task)
        if record is None or record.phase is not Phase.RUNNING:
            raise UnknownTask(f"no container of task {task} runs here")
        return await self._engine.run_command(record.container, command, timeout_s)

    async def execute(self, request: CommandRequest) -> Execution:
        """See `Runtime`."""
        record = self._records.get(request.task)
        if record is None or record.phase is not Phase.RUNNING:
            raise UnknownTask(f"no container of task {request.task} runs here")
        return await execute_in(self._engine, self._context.docker, record.container, request)

    async def connect_engine(self) -> DirectConnection:
        """See `HasEngine`. Raises EngineLost, ValueError."""
        if not self._engine.connected.is_set():
            raise EngineLost(self._engine.unavailable)
        return await connect_directly(self._context.docker)

    async def logs(self, task: str, stream: str, *, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        """See `Runtime`; also raises ConnectionError while the engine is away."""
        output = self._engine.output(task, stream, follow=follow, tail=tail)
        async with contextlib.aclosing(output) as chunks:
            async for chunk in chunks:
                yield chunk

    # Records and reports

    def _record(self, identity: Identity) -> Record:
        """The task's record; a new one, under the same lock, when the incarnation is new."""
        known = self._records.get(identity.task)
        if known is not None and known.incarnation >= identity.incarnation:
            return known
        made = Record(task=identity.task, incarnation=identity.incarnation)
        if known is not None:
            made.lock = known.lock
        self._records[identity.task] = made
        return made

    def _emit(self, record: Record, phase: Phase, **members: Any) -> None:
        self._report(record, record.saying(phase, **members))

    def _report(self, record: Record, report: Report) -> None:
        if report != record.last:
            self._changes += 1
            record.last, record.changed = report, self._changes
            self._report_to(report)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except EngineLost as error:
                _log.debug("dropped, the next snapshot tells: %s", error)
            except Exception:  # noqa: BLE001 - one task's trouble must not silence the others
                _log.exception("a bug in the docker runtime")

        task = asyncio.get_running_loop().create_task(guarded())
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(lambda _: work.close())  # if it was cancelled before it had begun

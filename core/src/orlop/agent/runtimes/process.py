"""The `process` runtime: tasks as plain processes under the node's supervisor (see `orlop.agent.supervisor`).

What it holds is a mirror of the supervisor's table, plus what the supervisor does not know (yet): launches that are
being prepared or have been asked for, and those that never got that far. Each connection brings the table anew; then
what was under way is asked for again: starts (which are idempotent), kills, forgettings. Signals are not repeated:
the worker follows up with a kill.

Limits are the kernel's control groups', where the agent may make them (`orlop.agent.cgroups`). Output goes straight
to files, whose size this runtime bounds by copying and truncating once a second (`process_logs`): at most
`log_bytes_max` in the file and as much in its predecessor, give or take what a second brings.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from orlop.agent import cgroups
from orlop.agent.cgroups import ControlGroups, NoControlGroups
from orlop.agent.fetching import CannotFetch, Fetching
from orlop.agent.runtimes.interface import (
    Execution,
    InvalidPayload,
    Launch,
    Phase,
    Report,
    RuntimeContext,
    RuntimeEvent,
    Snapshot,
    Unavailable,
    UnknownTask,
)
from orlop.agent.runtimes.outputs import STREAMS, Outputs
from orlop.agent.runtimes.process_command import run_beside
from orlop.agent.runtimes.process_exec import execute_beside
from orlop.agent.runtimes.process_folders import (
    CannotPrepare,
    mark_removed,
    prune,
    read_facts,
)
from orlop.agent.runtimes.process_logs import LogStream
from orlop.agent.runtimes.process_payload import Payload, parse_payload
from orlop.agent.runtimes.process_preparing import Preparer
from orlop.agent.runtimes.process_reports import report_of, signal_number
from orlop.agent.supervisor.journal import Entry
from orlop.agent.supervisor_client import SupervisorClient
from orlop.model.streams import CommandRequest
from orlop.model.tasks import Exit, Outcome
from orlop.recurring import surviving

_log = logging.getLogger(__name__)

ROTATE_INTERVAL_S: Final = 1.0
PRUNE_INTERVAL_S: Final = 60.0
FOLLOW_INTERVAL_S: Final = 0.2


@attrs.define
class _Pending:
    """A launch that the supervisor has not confirmed. request: None while it is being prepared. fetch: of its
    artefacts, while that goes on; then message says how far it is."""

    launch: Launch
    fetch: asyncio.Task[None] | None = None
    message: str = ""
    request: dict[str, Any] | None = None
    killed: bool = False
    signals: list[int] = attrs.field(factory=list)

    def report(self) -> Report:
        phase, message = (Phase.PREPARING, self.message) if self.request is None else (Phase.STARTING, "")
        incarnation = self.launch.assignment.incarnation
        return Report(task=self.launch.task, incarnation=incarnation, phase=phase, message=message)

    def call_off(self) -> None:
        """It is not to be started any more. What is being fetched for it ends at once."""
        self.killed = True
        if self.fetch is not None:
            self.fetch.cancel()


class ProcessRuntime:
    """See the module, and `interface.Runtime` for the methods."""

    name = "process"

    def __init__(self, context: RuntimeContext) -> None:
        self._context = context
        self._outputs = Outputs(context.data / "outputs")
        self._report: Callable[[RuntimeEvent], None] = lambda _: None
        self._client: SupervisorClient | None = None
        self._control_groups: ControlGroups | None = None
        self._preparer = Preparer(None)
        self._fetching = Fetching(context)
        self._entries: dict[str, Entry] = {}
        self._pending: dict[str, _Pending] = {}
        self._failed: dict[str, Report] = {}
        self._kills: set[str] = set()
        #: Ended tasks that the supervisor is to forget, until it says that it has; and which of them it is still to be
        #: asked to. The housekeeping asks for all of them in one go: each would hold up the starts of a burst.
        self._forgets: set[str] = set()
        self._to_forget: list[str] = []
        self._streams: dict[tuple[str, str], LogStream] = {}
        #: Folders that are to be marked as such, which the housekeeping does for all of them in one go.
        self._removed: list[Path] = []
        self._sweep_due = False
        self._listed = asyncio.Event()
        self._told = asyncio.Event()
        self._next_prune_s = 0.0
        self._keeper: asyncio.Task[None] | None = None

    async def open(self, report: Callable[[RuntimeEvent], None]) -> None:
        self._report = report
        try:
            self._control_groups = await asyncio.to_thread(ControlGroups.open, self._context.node_id)
        except NoControlGroups as error:
            _log.warning("process tasks run without resource limits: %s", error)
        self._preparer = Preparer(self._control_groups)
        self._context.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._client = SupervisorClient(
            data=self._context.data,
            groups=self._control_groups.supervisor() if self._control_groups else (),
            on_list=self._on_list,
            on_news=self._on_news,
            on_unavailable=self._on_unavailable,
        )
        self._client.open()
        self._keeper = asyncio.create_task(self._keep_house(), name="process runtime's housekeeping")
        await self._told.wait()

    async def close(self) -> None:
        await self._preparer.close()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            await asyncio.to_thread(_mark, self._removed)
        self._ask_to_forget()
        if self._client is not None:
            await self._client.close()

    # --- requests ---

    async def start(self, launch: Launch) -> None:
        task, incarnation = launch.task, launch.assignment.incarnation
        seen = self._seen(task)
        if seen is not None and seen.incarnation >= incarnation:
            self._report(seen)
            return
        if task in self._pending:
            self._pending[task].call_off()
        pending = _Pending(launch)
        self._pending[task] = pending
        self._failed.pop(task, None)
        self._report(pending.report())
        try:
            payload = parse_payload(launch.assignment.spec.payload)
            request = await self._preparer.prepare(launch, payload)
            if payload.artefacts and not await self._fetch(pending, payload, request):
                self._fail_killed(pending)
                return
        except (InvalidPayload, CannotPrepare, CannotFetch) as error:
            self._fail(pending, Exit(outcome=Outcome.ERROR, reason=str(error)))
            return
        except Exception:  # a bug, and the agent's to report
            if self._pending.get(task) is pending:
                del self._pending[task]
            raise
        if self._pending.get(task) is not pending:
            return  # a later incarnation has overtaken it, or the supervisor turned out to have it
        pending.request = request
        if pending.killed:
            self._fail_killed(pending)
            return
        self._ask_to_start(pending)

    async def _fetch(self, pending: _Pending, payload: Payload, request: dict[str, Any]) -> bool:
        """False when it was called off. Raises CannotFetch."""

        def progress(message: str) -> None:
            pending.message = message
            if self._pending.get(pending.launch.task) is pending:
                self._report(pending.report())

        async def fetch() -> None:
            await self._listed.wait()  # nothing is written to a folder in which a task may turn out to run
            work = pending.launch.directory / "work"
            await self._fetching.fetch(payload.artefacts, work, request["user"], progress)

        if not pending.killed and not pending.signals:
            pending.fetch = asyncio.create_task(fetch(), name="fetching artefacts")
            try:
                await pending.fetch
                return True
            except CannotFetch:
                await self._clear(pending, request)
                raise
            except asyncio.CancelledError:
                if not pending.killed:
                    raise  # it is the agent that ends
            finally:
                pending.fetch = None
        await self._clear(pending, request)
        return False

    async def _clear(self, pending: _Pending, request: dict[str, Any]) -> None:
        """Gives up what was prepared for a start that will not be. What was fetched for nothing may be large."""
        if self._pending.get(pending.launch.task) is not pending:
            return  # another incarnation's by now
        cgroups.remove(request["groups"])
        if pending.launch.assignment.incarnation == 1:
            await asyncio.to_thread(shutil.rmtree, pending.launch.directory / "work", ignore_errors=True)

    async def signal(self, task: str, signal_name: str) -> None:
        number = signal_number(signal_name)
        pending = self._pending.get(task)
        if pending is not None and pending.fetch is not None:
            pending.call_off()
        elif pending is not None and pending.request is None:
            pending.signals.append(number)
        elif pending is not None or self._is_running(task):
            self._send({"do": "signal", "task": task, "signal": number})

    async def kill(self, task: str) -> None:
        pending = self._pending.get(task)
        if pending is not None:
            pending.call_off()
            if pending.request is None:
                return  # `start` sees it when it is prepared
        if pending is not None or self._is_running(task):
            self._kills.add(task)
            self._send({"do": "kill", "task": task})

    async def remove(self, task: str) -> None:
        if task in self._pending or self._is_running(task):
            return
        self._failed.pop(task, None)
        entry = self._entries.pop(task, None)
        if entry is not None:
            self._forgets.add(task)
            self._to_forget.append(task)
        for stream in STREAMS:
            self._streams.pop((task, stream), None)
        self._removed.append(self._context.tasks / task)

    async def run_command(self, task: str, command: str, timeout_s: float) -> tuple[int, str]:
        if not self._is_running(task):
            raise UnknownTask(f"{task} is not running on this node")
        try:
            facts = await asyncio.to_thread(read_facts, Path(self._entries[task].folder))
        except CannotPrepare as error:
            raise UnknownTask(str(error)) from error
        return await run_beside(facts, command, timeout_s)

    async def execute(self, request: CommandRequest) -> Execution:
        if not self._is_running(request.task):
            raise UnknownTask(f"{request.task} is not running on this node")
        try:
            facts = await asyncio.to_thread(read_facts, Path(self._entries[request.task].folder))
        except CannotPrepare as error:
            raise UnknownTask(str(error)) from error
        return await execute_beside(facts, request)

    def logs(self, task: str, stream: str, *, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        if stream not in STREAMS:
            raise ValueError(f"stream: expected {' or '.join(STREAMS)}, got {stream!r}")
        entry, pending = self._entries.get(task), self._pending.get(task)
        if entry is None and pending is None and not _has_folder(self._context.tasks, task):
            if not self._outputs.has(task):
                raise UnknownTask(f"{task} has no output on this node, or has none any more")
            return self._read_excerpt(task, stream, tail)
        return self._read_logs(task, self._stream(task, stream), follow=follow, tail=tail)

    async def _read_logs(self, task: str, stream: LogStream, *, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        position = await asyncio.to_thread(stream.position_of_tail, tail)
        while True:
            ended = task not in self._pending and not self._is_running(task)
            data, position = await asyncio.to_thread(stream.read, position)
            if data:
                yield data
            elif ended or not follow:
                return
            else:
                await asyncio.sleep(FOLLOW_INTERVAL_S)

    async def _read_excerpt(self, task: str, stream: str, tail: int | None) -> AsyncIterator[bytes]:
        yield await asyncio.to_thread(self._outputs.read, task, stream, tail)

    # --- what the supervisor says ---

    def _on_list(self, plain: list[dict[str, Any]]) -> None:
        entries = {entry.task: entry for entry in map(Entry.from_json, plain)}
        self._forgets &= entries.keys()
        self._to_forget = list(self._forgets)
        self._ask_to_forget()
        self._entries = {task: entry for task, entry in entries.items() if task not in self._forgets}
        for pending in list(self._pending.values()):
            self._take_up(pending)
        self._kills = {task for task in self._kills if self._is_running(task)}
        for task in self._kills:
            self._send({"do": "kill", "task": task})
        self._listed.set()
        self._sweep_due = True
        self._sweep()
        self._report(self._snapshot())
        self._told.set()

    def _take_up(self, pending: _Pending) -> None:
        """After a new connection: has the supervisor got the launch, or is it to be asked again?"""
        task, incarnation = pending.launch.task, pending.launch.assignment.incarnation
        entry = self._entries.get(task)
        if entry is not None and entry.incarnation >= incarnation:
            del self._pending[task]
            if pending.request is None:
                pending.call_off()
        elif pending.request is not None and pending.killed:
            self._fail_killed(pending)
        elif pending.request is not None:
            self._ask_to_start(pending)

    def _on_news(self, message: dict[str, Any]) -> None:
        kind = message["is"]
        if kind in ("started", "exited"):
            self._on_entry(Entry.from_json(message["task"]))
        elif kind == "refused":
            pending = self._pending.get(message["task"])
            if pending is not None and pending.launch.assignment.incarnation == message["incarnation"]:
                self._fail(pending, Exit(outcome=Outcome.ERROR, reason=message["reason"]))
        elif kind == "forgotten":
            self._forgets.discard(message["task"])

    def _on_entry(self, entry: Entry) -> None:
        if entry.task in self._forgets:
            return
        self._entries[entry.task] = entry
        pending = self._pending.get(entry.task)
        if pending is not None and pending.launch.assignment.incarnation <= entry.incarnation:
            del self._pending[entry.task]
        if entry.exit is not None:
            self._kills.discard(entry.task)
        self._report(report_of(entry))

    def _on_unavailable(self, reason: str) -> None:
        self._report(Unavailable(runtime=self.name, reason=reason))
        self._told.set()

    # --- its own state ---

    def _snapshot(self) -> Snapshot:
        seen = {task: report_of(entry) for task, entry in self._entries.items()}
        seen.update(self._failed)
        seen.update({task: pending.report() for task, pending in self._pending.items()})
        return Snapshot(runtime=self.name, reports=tuple(seen.values()))

    def _seen(self, task: str) -> Report | None:
        pending, entry = self._pending.get(task), self._entries.get(task)
        if pending is not None:
            return pending.report()
        if task in self._failed:
            return self._failed[task]
        return report_of(entry) if entry is not None else None

    def _is_running(self, task: str) -> bool:
        entry = self._entries.get(task)
        return entry is not None and entry.exit is None

    def _ask_to_start(self, pending: _Pending) -> None:
        assert pending.request is not None
        self._forgets.discard(pending.launch.task)
        if self._send(pending.request):
            for number in pending.signals:
                self._send({"do": "signal", "task": pending.launch.task, "signal": number})

    def _ask_to_forget(self) -> None:
        tasks, self._to_forget = self._to_forget, []
        for task in tasks:
            if task in self._forgets:  # it has not been started again
                self._send({"do": "forget", "task": task})

    def _fail_killed(self, pending: _Pending) -> None:
        killed = Exit(outcome=Outcome.FAILED, signal=signal.SIGKILL, reason="killed before it was started")
        self._fail(pending, killed)

    def _fail(self, pending: _Pending, ended: Exit) -> None:
        """It will never be in the supervisor's table, so this runtime remembers it."""
        task = pending.launch.task
        if self._pending.get(task) is not pending:
            return
        del self._pending[task]
        self._kills.discard(task)
        if pending.request is not None:
            cgroups.remove(pending.request["groups"])
        report = attrs.evolve(pending.report(), phase=Phase.ENDED, exit=ended)
        self._failed[task] = report
        self._report(report)

    def _send(self, message: dict[str, Any]) -> bool:
        return self._client is not None and self._client.send(message)

    def _stream(self, task: str, stream: str) -> LogStream:
        known = self._streams.get((task, stream))
        if known is None:
            entry = self._entries.get(task)
            folder = Path(entry.folder) if entry is not None else self._context.tasks / task
            known = LogStream(folder / stream)
            if task in self._pending or task in self._entries:
                self._streams[task, stream] = known
        return known

    def _sweep(self) -> None:
        """A supervisor that dies leaves control groups behind: once per connection, when no launch is making its own,
        those that no known task uses are removed."""
        preparing = any(pending.request is None for pending in self._pending.values())
        if not self._sweep_due or preparing or self._control_groups is None:
            return
        self._sweep_due = False
        kept = [tuple(entry.groups) for entry in self._entries.values()]
        kept += [tuple(p.request["groups"]) for p in self._pending.values() if p.request is not None]
        self._control_groups.sweep(kept)

    # --- housekeeping ---

    async def _keep_house(self) -> None:
        while True:
            with surviving("the housekeeping of processes"):
                await self._keep_house_once()
            await asyncio.sleep(ROTATE_INTERVAL_S)

    async def _keep_house_once(self) -> None:
        self._sweep()
        self._ask_to_forget()
        if self._removed:
            removed = tuple(self._removed)
            await asyncio.to_thread(_mark, removed)
            del self._removed[: len(removed)]
        streams = [self._stream(task, name) for task in self._entries if self._is_running(task) for name in STREAMS]
        if streams:
            await asyncio.to_thread(_rotate, streams, self._context.log_bytes_max)
        if self._listed.is_set() and time.monotonic() >= self._next_prune_s:
            self._next_prune_s = time.monotonic() + PRUNE_INTERVAL_S
            known = self._entries.keys() | self._pending.keys() | self._failed.keys()
            known |= {folder.name for folder in self._removed}
            await asyncio.to_thread(prune, self._context.tasks, known, time.time(), self._outputs)


def _has_folder(tasks: Path, task: str) -> bool:
    """A name that is a path leads nowhere."""
    return "/" not in task and task not in ("", ".", "..") and (tasks / task).is_dir()


def _mark(removed: Sequence[Path]) -> None:
    for folder in removed:
        mark_removed(folder)


def _rotate(streams: list[LogStream], bytes_max: int) -> None:
    for stream in streams:
        with contextlib.suppress(FileNotFoundError):
            try:
                stream.rotate(bytes_max)
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    _log.warning("output cannot be rotated: %s", error)

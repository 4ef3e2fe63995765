"""The decisions of one node: what to start, stop and report. Pure; the shell in `agent.py` does what it says.

The worker holds one record per task that was ever assigned here and whose end is not yet durable at the server.
Records are on disk before anything is started, so that a restarted agent knows what it has started. Three truths
meet here, each level-triggered: what the server wants (`Assignments`), what the runtimes have (`Snapshot`, `Report`),
and what was acknowledged (`Received`). Every handler compares them and moves one step; asking twice for the same
thing is harmless, because starting is idempotent per incarnation and stopping per task.

The worker never kills because a task is unhealthy, and because a server is gone only where the task's own partition
policy says so. It stops a task when its desired state says so, or when a full list of assignments, made within the
lineage that the task was assigned in, does not name it any more. What a runtime still has of an ended task of which
neither the node nor such a list knows is removed: the node went down after the record was dropped and before it was.

What the news of a runtime mean for tasks that outlive their runs is told by `kept`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from orlop.agent import kept
from orlop.agent.decisions import (
    Drop,
    Effect,
    Event,
    KillNow,
    ProbesChanged,
    Remove,
    Save,
    SaveEpoch,
    ServerAway,
    ServerHere,
    SetTimer,
    Signal,
    Start,
    TimerDue,
    Unwatch,
    Watch,
)
from orlop.agent.runtimes.interface import Phase, Report, Snapshot, Unavailable
from orlop.agent.status_telling import TOKENS, StatusTelling
from orlop.agent.task_record import TaskRecord
from orlop.model.clock import Now
from orlop.model.messages import Assignment, Assignments, Epoch, Received
from orlop.model.tasks import STATE_ORDER, Desired, Exit, Outcome, Status, TaskState

KILL_AGAIN_MS: Final = 5_000
#: What the names of timers begin with that wait for a server; ids of tasks have no slash.
ALONE: Final = "alone/"


class Worker:
    """See the module. `records`, `epoch`: as loaded from disk. `runtimes`: names of those this node has."""

    def __init__(self, runtimes: Iterable[str], records: Iterable[TaskRecord] = (), epoch: Epoch | None = None) -> None:
        self._runtimes = frozenset(runtimes)
        self._records = {record.assignment.task: record for record in records}
        self._telling = StatusTelling(self._records)
        self._strangers: dict[str, str] = {}
        self._epoch = epoch or Epoch(0, 0)
        self._alone = True
        self._times_alone = 0
        #: Tasks that have a timer of this time alone, from its begin on.
        self._timed: set[str] = set()
        #: Tasks whose start waits for a server's word.
        self._held: set[str] = set()
        #: What each runtime had in its last snapshot, while that can be relied on.
        self._present: dict[str, set[str]] = {}

    @property
    def records(self) -> dict[str, TaskRecord]:
        """task id → record; not to be changed by others."""
        return self._records

    def is_deposed(self, epoch: Epoch) -> bool:
        """Does a later leader than this one command the node? Nothing it says counts, acknowledgements included."""
        return epoch < self._epoch

    def statuses(self) -> tuple[Status, ...]:
        """Of every recorded task, for a hello."""
        return tuple(record.status for record in self._records.values())

    def handle(self, event: Event, now: Now) -> list[Effect]:
        """What to do about it, in this order."""
        effects = list(self._dispatch(event, now))
        for effect in effects:
            if isinstance(effect, Save):
                self._telling.changed(effect.record, now)
        effects += self._telling.tell()
        return effects

    def _dispatch(self, event: Event, now: Now) -> Iterator[Effect]:
        match event:
            case Assignments():
                yield from self._assigned(event, now)
            case Received():
                yield from self._received(event)
            case Report():
                yield from self._reported(event, now)
            case Snapshot():
                yield from self._snapshot(event, now)
            case ProbesChanged():
                yield from self._probed(event)
            case ServerHere():
                self._alone = False
            case ServerAway():
                yield from self._server_away()
            case TimerDue():
                yield from self._timer(event, now)
            case Unavailable():
                # Nothing is known until the next snapshot; running tasks stay what they are.
                self._present.pop(event.runtime, None)

    # What the server wants

    def _assigned(self, message: Assignments, now: Now) -> Iterator[Effect]:
        if self.is_deposed(message.epoch):
            return
        if message.epoch > self._epoch:
            self._epoch = message.epoch
            yield SaveEpoch(message.epoch)
        for item in message.items:
            yield from self._wanted(item, message, now)
        if message.full:
            named = {item.task for item in message.items} | set(message.also)
            for record in [one for task, one in self._records.items() if task not in named]:
                yield from self._unnamed(record, message, now)
            held, self._held = self._held, set()
            for task in sorted(held & named & self._records.keys()):
                yield from self._start_again(self._records[task])
            strangers, self._strangers = self._strangers, {}
            for task in strangers.keys() - named:
                yield Remove(strangers[task], task)

    def _wanted(self, item: Assignment, message: Assignments, now: Now) -> Iterator[Effect]:
        known = self._records.get(item.task)
        if known is None:
            yield from self._first(item, message, now)
            return
        record = attrs.evolve(
            known,
            assignment=attrs.evolve(item, incarnation=known.assignment.incarnation),
            generation=message.epoch.generation,
            revision=message.revision,
            orphan=False,
        )
        if kept.is_behind(record, item):
            # What it tells of an earlier run is no news to the server, not even that its container is gone.
            record = attrs.evolve(record, status=attrs.evolve(record.status, incarnation=item.incarnation))
            yield from self._moved(record, record.status.state, now, exit_=record.status.exit)
            record = self._records[item.task]
        if record.assignment.desired is known.assignment.desired or not known.live:
            self._remember(record)
            return
        yield from self._keep(record)
        if record.to_stop:
            yield from self._stop(record, now)

    def _first(self, item: Assignment, message: Assignments, now: Now) -> Iterator[Effect]:
        status = Status(task=item.task, state=TaskState.ASSIGNED, incarnation=item.incarnation, at_utc_ms=now.utc_ms)
        record = TaskRecord(
            assignment=item, generation=message.epoch.generation, revision=message.revision, status=status
        )
        if item.desired in (Desired.STOPPED, Desired.REMOVED):
            if item.task not in self._present.get(item.spec.runtime, {item.task}):
                exit_ = Exit(outcome=Outcome.KILLED, reason=item.reason)
                yield from self._moved(record, TaskState.REMOVED, now, exit_=exit_)
                return
            # It may have been started by an earlier life of this node, before its records were lost.
            yield from self._keep(record)
            yield from self._stop(record, now)
        elif item.spec.runtime not in self._runtimes:
            exit_ = Exit(outcome=Outcome.ERROR, reason=f"this node has no {item.spec.runtime} runtime")
            yield from self._moved(record, TaskState.REMOVED, now, exit_=exit_)
        else:
            yield from self._moved(record, TaskState.PREPARING, now)
            yield Start(item)

    def _unnamed(self, record: TaskRecord, message: Assignments, now: Now) -> Iterator[Effect]:
        if record.status.state is TaskState.REMOVED or record.orphan:
            return  # reported in the hello; its acknowledgement drops it, if it has ended
        if record.generation == message.epoch.generation and record.revision <= message.revision:
            stopped = attrs.evolve(record.assignment, desired=Desired.REMOVED, reason="it is no longer wanted")
            changed = attrs.evolve(record, assignment=stopped)
            yield from self._keep(changed)
            yield from self._stop(changed, now)
        else:
            yield from self._keep(attrs.evolve(record, orphan=True))

    def _stop(self, record: TaskRecord, now: Now) -> Iterator[Effect]:
        task = record.assignment.task
        if record.status.state is TaskState.ENDED:
            yield from self._moved(record, TaskState.REMOVED, now, exit_=record.status.exit)
            return
        if not record.live:
            return
        if task in self._held and task not in self._present.get(record.assignment.spec.runtime, {task}):
            self._held.discard(task)
            exit_ = Exit(outcome=Outcome.KILLED, reason=record.stop_reason)
            yield from self._moved(record, TaskState.REMOVED, now, exit_=exit_)
            return
        yield from self._moved(record, TaskState.STOPPING, now)
        policies = record.assignment.spec.policies
        yield Unwatch(task)
        yield Signal(record.assignment.spec.runtime, task, policies.stop_signal)
        yield SetTimer(task, policies.kill_grace_ms)

    # What the runtimes have

    def _reported(self, report: Report, now: Now) -> Iterator[Effect]:
        record = self._records.get(report.task)
        if record is None or not record.live:
            return
        if record.kept:
            yield from self._kept_reported(record, report, now)
            return
        if report.incarnation < record.status.incarnation:
            return
        if report.phase is Phase.ENDED:
            yield from self._ended(record, report.exit, now)
        elif record.to_stop:
            # It came up after it was told to go: say so again, once per report.
            if report.phase is Phase.RUNNING:
                yield from self._stop_late(record, report)
        else:
            yield from self._alive(record, report, now)

    def _kept_reported(self, record: TaskRecord, report: Report, now: Now) -> Iterator[Effect]:
        task = record.assignment.task
        match kept.meaning(record, report):
            case kept.RunOver() as over:
                yield from self._moved(over.record, TaskState.PREPARED, now, exit_=over.exit)
                yield Unwatch(task)
            case kept.Over() as over:
                yield from self._ended(over.record, over.exit, now)
            case kept.StartDue():
                yield from self._start_again(record)
            case Report() as alive if record.to_stop:
                yield from self._stop_late(record, alive)
            case Report() as alive:
                yield from self._alive(record, alive, now)

    def _alive(self, record: TaskRecord, report: Report, now: Now) -> Iterator[Effect]:
        state = {
            Phase.PREPARING: TaskState.PREPARING,
            Phase.PREPARED: TaskState.PREPARED,
            Phase.STARTING: TaskState.STARTING,
            Phase.RUNNING: TaskState.RUNNING,
        }[report.phase]
        known = record.status
        newer = report.incarnation > known.incarnation
        if not newer and STATE_ORDER[state] < STATE_ORDER[known.state]:
            return
        status = attrs.evolve(
            known,
            state=state,
            incarnation=report.incarnation,
            external_id=report.external_id or known.external_id,
            addresses=report.addresses or known.addresses,
            message=report.message,
            exit=None if state is TaskState.RUNNING else known.exit,
            probes=() if newer else known.probes,
        )
        if status == known:
            if state is TaskState.RUNNING:
                yield Watch(record.assignment, known)
            return
        at = now.utc_ms if newer or state is not known.state else known.at_utc_ms
        record = attrs.evolve(record, status=attrs.evolve(status, sequence=known.sequence + 1, at_utc_ms=at))
        yield from self._keep(record)
        if state is TaskState.RUNNING:
            yield Watch(record.assignment, record.status)

    def _stop_late(self, record: TaskRecord, report: Report) -> Iterator[Effect]:
        policies = record.assignment.spec.policies
        if record.status.external_id != report.external_id:
            status = attrs.evolve(record.status, external_id=report.external_id, sequence=record.status.sequence + 1)
            yield from self._keep(attrs.evolve(record, status=status))
            yield SetTimer(report.task, policies.kill_grace_ms)
        yield Signal(record.assignment.spec.runtime, report.task, policies.stop_signal)

    def _ended(self, record: TaskRecord, exit_: Exit | None, now: Now) -> Iterator[Effect]:
        exit_ = exit_ or Exit(outcome=Outcome.LOST, reason="its end was not observed")
        if record.to_stop and exit_.outcome in (Outcome.FAILED, Outcome.FINISHED, Outcome.LOST):
            exit_ = attrs.evolve(exit_, outcome=Outcome.KILLED, reason=record.stop_reason or exit_.reason)
        yield from self._moved(record, TaskState.REMOVED, now, exit_=exit_)

    def _snapshot(self, snapshot: Snapshot, now: Now) -> Iterator[Effect]:
        found = {report.task for report in snapshot.reports}
        self._present[snapshot.runtime] = found
        for report in snapshot.reports:
            yield from self._reported(report, now)
        for record in list(self._records.values()):
            task = record.assignment.task
            if record.assignment.spec.runtime == snapshot.runtime and task not in found and record.live:
                yield from self._missing(record, now)
        self._strangers = {task: name for task, name in self._strangers.items() if name != snapshot.runtime}
        for report in snapshot.reports:
            known = self._records.get(report.task)
            if known is None:
                # Its end is durable at the server, or it has lost its record: the next full list tells.
                if report.phase is Phase.ENDED:
                    self._strangers[report.task] = snapshot.runtime
                continue
            if known.live and known.status.state is TaskState.STOPPING:
                yield SetTimer(report.task, known.assignment.spec.policies.kill_grace_ms)
            elif known.status.state is TaskState.REMOVED:
                # A crash between the record of the end and its removal would leave it there for ever.
                yield Remove(snapshot.runtime, report.task)
            elif known.live and report.phase is Phase.PREPARING and not known.kept:
                # As would one between the making of a container and its start.
                yield from self._start_again(known)

    def _missing(self, record: TaskRecord, now: Now) -> Iterator[Effect]:
        if record.to_stop:
            exit_ = Exit(outcome=Outcome.KILLED, reason=record.stop_reason)
            yield from self._moved(record, TaskState.REMOVED, now, exit_=exit_)
        elif record.kept and record.status.external_id:
            yield from self._moved(record, TaskState.REMOVED, now, exit_=kept.exit_of_missing(record))
        elif STATE_ORDER[record.status.state] <= STATE_ORDER[TaskState.PREPARED]:
            yield from self._start_again(record)
        else:
            exit_ = Exit(outcome=Outcome.LOST, reason=f"it vanished from the {record.assignment.spec.runtime} runtime")
            yield from self._moved(record, TaskState.REMOVED, now, exit_=exit_)

    def _start_again(self, record: TaskRecord) -> Iterator[Effect]:
        """Once a server has said that it is still wanted, if its policy does not let it run without one: another may
        have been started in its place while the node was away."""
        if record.to_stop or not record.live:
            return
        if self._alone and record.assignment.spec.policies.partition.stop_after_ms is not None:
            self._held.add(record.assignment.task)
        else:
            yield Start(record.assignment)

    def _probed(self, event: ProbesChanged) -> Iterator[Effect]:
        record = self._records.get(event.task)
        if record is None or record.status.state is not TaskState.RUNNING:
            return
        known = record.status
        if known.incarnation == event.incarnation and known.probes != event.results:
            status = attrs.evolve(known, probes=event.results, sequence=known.sequence + 1)
            yield from self._keep(attrs.evolve(record, status=status))

    # What the server has

    def _received(self, message: Received) -> Iterator[Effect]:
        for task, incarnation, sequence in message.items:
            record = self._records.get(task)
            if record is None or incarnation != record.status.incarnation or sequence < record.acknowledged:
                continue
            if record.status.state is TaskState.REMOVED and sequence == record.status.sequence:
                del self._records[task]
                self._telling.forgotten(task)
                yield Drop(task)
            else:
                self._remember(attrs.evolve(record, acknowledged=sequence))

    def _server_away(self) -> Iterator[Effect]:
        """Tasks whose policy says so are stopped when it lasts. It goes on when a session ends that no server has begun
        with a welcome: the time of a task that is counted already is not counted anew."""
        if not self._alone or not self._times_alone:
            self._alone = True
            self._times_alone += 1
            self._timed.clear()
        for task, record in self._records.items():
            after_ms = record.assignment.spec.policies.partition.stop_after_ms
            if record.live and after_ms is not None and task not in self._timed:
                self._timed.add(task)
                yield SetTimer(f"{ALONE}{self._times_alone}/{task}", after_ms)

    def _stop_alone(self, token: str, now: Now) -> Iterator[Effect]:
        """A timer of an earlier time alone may be due only now, and says nothing of this one."""
        times_alone, _, task = token.partition("/")
        if times_alone != str(self._times_alone):
            return
        record = self._records.get(task)
        after_ms = record.assignment.spec.policies.partition.stop_after_ms if record is not None else None
        if record is None or after_ms is None or not self._alone or not record.live or record.to_stop:
            return
        reason = f"no server for {after_ms / 1000:g} s, for which its policy does not let it run"
        record = attrs.evolve(record, alone=reason)
        yield from self._keep(record)
        yield from self._stop(record, now)

    def _timer(self, event: TimerDue, now: Now) -> Iterator[Effect]:
        if event.token.startswith(ALONE):
            yield from self._stop_alone(event.token.removeprefix(ALONE), now)
            return
        if event.token in TOKENS:
            yield from self._telling.timer_due(event.token, now)
            return
        record = self._records.get(event.token)
        if record is not None and record.live and record.to_stop:
            yield KillNow(record.assignment.spec.runtime, event.token)
            yield SetTimer(event.token, KILL_AGAIN_MS)

    # Helpers

    def _moved(self, record: TaskRecord, state: TaskState, now: Now, *, exit_: Exit | None = None) -> Iterator[Effect]:
        status = attrs.evolve(
            record.status,
            state=state,
            exit=exit_,
            sequence=record.status.sequence + 1,
            at_utc_ms=now.utc_ms,
        )
        yield from self._keep(attrs.evolve(record, status=status))
        if state in (TaskState.ENDED, TaskState.REMOVED):
            yield Unwatch(record.assignment.task)
        if state is TaskState.REMOVED:
            yield Remove(record.assignment.spec.runtime, record.assignment.task)

    def _keep(self, record: TaskRecord) -> Iterator[Effect]:
        self._remember(record)
        yield Save(record)

    def _remember(self, record: TaskRecord) -> None:
        self._records[record.assignment.task] = record
        self._telling.remembered(record)

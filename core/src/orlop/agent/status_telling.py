"""When a server is told what becomes of a node's tasks: at once, unless that would cost more than it is worth.

Each status costs the server a decision, a commit and a run of a framework; of many together hardly more than of one.

- States that a task passes through, most often within milliseconds, are told when they last.
- While many starts are under way the node has enough to do, and starts come first: what becomes of tasks meanwhile is
  told together, a few times a second.
- What is not confirmed is told again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from orlop.agent.decisions import Effect, SetTimer, Tell
from orlop.agent.task_record import TaskRecord
from orlop.model.clock import Now
from orlop.model.tasks import Status, TaskState

PASSING: Final = frozenset({TaskState.PREPARING, TaskState.PREPARED, TaskState.STARTING})
PASSING_TOLD_AFTER_MS: Final = 100
#: So many starts under way are a burst.
BURST_STARTS: Final = 32
BURST_TOLD_EVERY_MS: Final = 250
BURST_PASSING_TOLD_AFTER_MS: Final = 1_000
TELL_AGAIN_MS: Final = 2_000

#: Names of timers, beside ids of tasks.
RESEND: Final = "resend"
PASSED: Final = "passing"
GATHERED: Final = "gathered"
TOKENS: Final = frozenset({RESEND, PASSED, GATHERED})


class StatusTelling:
    """See the module. records: the worker's, which go on changing; it says so of each."""

    def __init__(self, records: Mapping[str, TaskRecord]) -> None:
        self._records = records
        self._unconfirmed: dict[str, None] = {}
        #: task → since when it passes through states, in monotonic milliseconds.
        self._passing: dict[str, int] = {}
        self._gathered: dict[str, None] = {}
        #: Tasks whose start is under way.
        self._starting: set[str] = set()
        self._timers: set[str] = set()
        for record in records.values():
            self.remembered(record)

    def remembered(self, record: TaskRecord) -> None:
        """It is the task's record from now on: of its status, or of what the server has confirmed."""
        if record.unacknowledged:
            self._unconfirmed[record.assignment.task] = None
        else:
            self._unconfirmed.pop(record.assignment.task, None)

    def forgotten(self, task: str) -> None:
        """There is no record of it any more."""
        for tasks in (self._unconfirmed, self._passing, self._gathered):
            tasks.pop(task, None)
        self._starting.discard(task)

    def changed(self, record: TaskRecord, now: Now) -> None:
        """Its status may be a new one, to be told of."""
        task = record.assignment.task
        passes = record.status.state in PASSING and not record.waits_prepared
        if passes and not record.to_stop:
            self._starting.add(task)
        else:
            self._starting.discard(task)
        if record.unacknowledged and passes:
            self._passing.setdefault(task, now.monotonic_ms)
        elif record.unacknowledged:
            self._gathered[task] = None

    def tell(self) -> Iterator[Effect]:
        """What is to be told now, and when something will be."""
        if self._gathered and not self._is_burst:
            yield self._tell_gathered()
        if self._gathered:
            yield from self._set(GATHERED, BURST_TOLD_EVERY_MS)
        if self._passing:
            yield from self._set(PASSED, BURST_TOLD_EVERY_MS if self._is_burst else PASSING_TOLD_AFTER_MS)
        if self._unconfirmed:
            yield from self._set(RESEND, TELL_AGAIN_MS)

    def timer_due(self, token: str, now: Now) -> Iterator[Effect]:
        """token: one of `TOKENS`."""
        self._timers.discard(token)
        if token == RESEND and self._unconfirmed:
            yield Tell(self._statuses(self._unconfirmed))
        elif token == GATHERED and self._gathered:
            yield self._tell_gathered()
        elif token == PASSED:
            yield from self._tell_passing(now)

    @property
    def _is_burst(self) -> bool:
        return len(self._starting) >= BURST_STARTS

    def _set(self, token: str, delay_ms: int) -> Iterator[Effect]:
        if token not in self._timers:
            self._timers.add(token)
            yield SetTimer(token, delay_ms)

    def _tell_gathered(self) -> Tell:
        gathered, self._gathered = self._gathered, {}
        return Tell(self._statuses(gathered))

    def _tell_passing(self, now: Now) -> Iterator[Effect]:
        """Of the tasks that were passing through a state, those that still do."""
        until_ms = now.monotonic_ms - (BURST_PASSING_TOLD_AFTER_MS if self._is_burst else 0)
        statuses = self._statuses(task for task in self._passing if task in self._unconfirmed)
        still = [status for status in statuses if status.state in PASSING]
        told = tuple(status for status in still if self._passing[status.task] <= until_ms)
        self._passing = {one.task: since_ms for one in still if (since_ms := self._passing[one.task]) > until_ms}
        if told:
            yield Tell(told)

    def _statuses(self, tasks: Iterable[str]) -> tuple[Status, ...]:
        return tuple(self._records[task].status for task in tasks)

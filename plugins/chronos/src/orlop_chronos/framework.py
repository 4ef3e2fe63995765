"""The Chronos framework: runs jobs when they are due, by time or by their parents.

Theory of operation. All that is true stands in stored documents: a job's definition, how far it is, its runs. What a
job needs now is decided by `attending.attend`, which may be called at any time. The handler calls it for jobs whose
tasks changed, whose time has come, or which a command or another job touched; with `everything` for all of them.

Kept between runs is one cache: when each job must be attended next, and a heap of that. The earliest is the only
wake-up that is asked for. After a takeover it is built anew from the documents.
"""

from __future__ import annotations

import heapq
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

from orlop.framework import Action, Changed, Framework, Refused, Reply, View, WakeAt
from orlop_chronos import documents
from orlop_chronos.attending import attend
from orlop_chronos.desk import Desk
from orlop_chronos.documents import Children, Control, JobRecord, Progress, Run
from orlop_chronos.errors import ChronosError
from orlop_chronos.executing import execute
from orlop_chronos.notices import Notice
from orlop_chronos.settings import Config

#: So many jobs are looked at in one call, at most, whether they need anything or not.
ATTENDED_MAX: Final = 20_000
#: Times in the heap that do not count any more, at most, beside as many as do count.
FORGOTTEN_KEPT: Final = 1_000


class Chronos(Framework):
    """See the module."""

    name = "chronos"
    config = Config
    documents: ClassVar[Mapping[str, type]] = {
        documents.JOB: JobRecord,
        documents.PROGRESS: Progress,
        documents.RUN: Run,
        documents.CHILDREN: Children,
        documents.NOTICE: Notice,
        documents.CONTROL: Control,
    }
    version = 1

    def __init__(self, settings: Any = None) -> None:
        super().__init__(settings if settings is not None else Config())
        self._next: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []
        self._touched: set[str] = set()
        self._run: uuid.UUID | None = None

    def command(self, view: View, command: Any) -> Iterable[Action]:
        """Carries out one of `orders`; replies with what it has come to, refuses with a ChronosError."""
        desk = Desk(view, self.settings)
        try:
            answer = execute(command, desk)
        except ChronosError as error:
            raise Refused(error) from error
        run = view.unique("run")
        if self._run != run:
            self._run, self._touched = run, set()
        self._touched |= desk.touched
        return [*desk.actions(), Reply(answer)]

    def handle(self, view: View, changed: Changed) -> Iterable[Action]:
        """Of all that there is to do, after hours without a server say, as much as fits into the time of one call. The
        rest is due at once."""
        desk = Desk(view, self.settings)
        names = {job_of(key) for key in changed.keys}
        if self._run == view.unique("run"):
            names |= self._touched
        if changed.everything:
            self._next.clear()
            self._heap.clear()
            names |= set(view.objects(documents.JOB))
        waiting = dict.fromkeys([*self._due(view.now.utc_ms), *sorted(names)])
        attended = 0
        while waiting and not desk.is_full and attended < ATTENDED_MAX:
            name = next(iter(waiting))
            del waiting[name]
            attended += 1
            desk.touched.discard(name)
            self._remember(name, attend(desk, name))
            waiting |= dict.fromkeys(sorted(desk.touched))
            desk.touched.clear()
        for name in (*waiting, *(child for child, _ in desk.told)):
            self._remember(name, view.now.utc_ms)
        return [*desk.actions(), WakeAt(self._earliest(), "due")]

    # The cache

    def _due(self, now_ms: int) -> list[str]:
        """Jobs whose time has come, in the order of their times, which are forgotten: attending them says the next."""
        found = []
        while self._heap and self._heap[0][0] <= now_ms:
            at_ms, name = heapq.heappop(self._heap)
            if self._next.get(name) == at_ms:
                del self._next[name]
                found.append(name)
        return found

    def _remember(self, name: str, at_ms: int | None) -> None:
        if at_ms is None:
            self._next.pop(name, None)
        elif self._next.get(name) != at_ms:
            self._next[name] = at_ms
            heapq.heappush(self._heap, (at_ms, name))
            if len(self._heap) > 2 * len(self._next) + FORGOTTEN_KEPT:
                self._heap = [(at_ms, name) for name, at_ms in self._next.items()]
                heapq.heapify(self._heap)

    def _earliest(self) -> int | None:
        while self._heap and self._next.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None


def job_of(key: str) -> str:
    """The job of a task's key; names of jobs have no slash."""
    return key.partition("/")[0]

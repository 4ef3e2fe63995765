"""The shell of the commit pipeline: a kernel thread that decides, a writer thread that writes.

`submit` may be called from any thread. Effects are handed to `release` and outcomes to each submission's `done`, both
on the writer thread. They only enqueue. `decided` is called on the kernel's thread after each step, with what makes
the writer begin: to be called there, or on another thread soon.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final

from orlop.kernel.events import AgentHello, AgentStatuses, Effect, Event, FrameworkActions
from orlop.kernel.kernel import Kernel
from orlop.kernel.state import State
from orlop.model.clock import Now
from orlop.server.loading import Term
from orlop.server.patience import Work
from orlop.server.pipeline import Failure, Pipeline, Submission
from orlop.server.watchdog import DECIDE_WITHIN_S
from orlop.server.writing import Released, Transaction, Writer
from orlop.store.interface import OutcomeUnknown, Store, StoreRefused

log = logging.getLogger(__name__)

DOCUMENTS_PER_STEP_MAX: Final = 200
#: What a step writes besides: its record of the event log, a framework's cursor, specs.
DOCUMENTS_BESIDES: Final = 8
#: Of a transaction, for the state's own document.
RESERVED_OPERATIONS: Final = 1
JOIN_S: Final = 10.0


class Core:
    """The cluster's one mutator, running. `failed` is called once, when the store's state is not known any more."""

    def __init__(
        self,
        kernel: Kernel,
        store: Store,
        term: Term,
        clock: Callable[[], Now],
        release: Callable[[Sequence[Effect]], None],
        failed: Callable[[Exception], None],
        decided: Callable[[Callable[[], None]], None] = lambda write: write(),
    ) -> None:
        self.kernel = kernel
        self._store = store
        writes_max = store.limits.operations - RESERVED_OPERATIONS
        # A step fits into one transaction, unless a single event changes more.
        self._documents_max = max(1, min(DOCUMENTS_PER_STEP_MAX, writes_max - DOCUMENTS_BESIDES))
        self._lock = threading.Lock()
        self._pipeline = Pipeline(kernel, term.state, term.epoch, writes_max)
        self._writer = Writer(self._pipeline, term, store.limits, self._lock)
        self._clock = clock
        self._release = release
        self._failed = failed
        self._decided = decided
        self._events: queue.SimpleQueue[Submission | None] = queue.SimpleQueue()
        self._next: Submission | None = None
        self._gate = threading.Lock()
        self._closed = False
        self._write_wanted = threading.Event()
        self._stopping = False
        self._abandoned = ""
        self._numbers = itertools.count(1)
        self._deciding: Work | None = None
        self._threads = [
            threading.Thread(target=self._decide_forever, name="orlop-kernel", daemon=True),
            threading.Thread(target=self._write_forever, name="orlop-store", daemon=True),
        ]

    @property
    def committed(self) -> State:
        """The newest durable state."""
        return self._pipeline.committed

    @property
    def head(self) -> State:
        """The newest state of all; the store may still refuse it."""
        return self._pipeline.head

    @property
    def read_only_reason(self) -> str:
        """Why the store refused the last transaction; empty when it did not."""
        return self._writer.refusal

    @property
    def deciding(self) -> Work | None:
        """The step under way: milliseconds of work, unless a plugin's filter or scorer does not return."""
        return self._deciding

    @property
    def slow_reason(self) -> str:
        """Why nothing is decided for some time; empty when it is."""
        work = self._deciding
        if work is None or self._clock().monotonic_ms - work.since_ms < DECIDE_WITHIN_S * 1000:
            return ""
        return f"a decision takes more than {DECIDE_WITHIN_S:g} s"

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Writes what was decided, and ends."""
        self._stopping = True
        self._events.put(None)
        for thread in self._threads:
            thread.join(timeout=JOIN_S)
            self._write_wanted.set()  # the writer may have looked just before the kernel's thread was gone

    def abandon(self, reason: str) -> None:
        """Ends without writing anything more: whoever waits is told that nothing was changed, or that nobody knows.

        Returns at once; a transaction that is under way may still reach the store, and nothing is released for it.
        """
        with self._lock:
            self._abandoned = self._abandoned or reason
            told = self._pipeline.abandoned(reason)
        self._stopping = True
        self._events.put(None)
        self._write_wanted.set()
        for submission, failure in told:
            submission.tell(failure)

    def submit(self, event: Event, done: Callable[[Failure | None], object] | None = None) -> None:
        """Queues an event."""
        submission = Submission(event, done)
        with self._gate:
            if not self._closed:
                self._events.put(submission)
                return
        submission.tell(Failure(self._abandoned or "this server stops"))

    def _decide_forever(self) -> None:
        while not self._close_when_done():
            submissions = self._take_events()
            if submissions:
                self._decide(submissions)
                self._decided(self._write_wanted.set)
        self._write_wanted.set()

    def _close_when_done(self) -> bool:
        with self._gate:
            self._closed = self._stopping and self._next is None and self._events.empty()
            return self._closed

    def _decide(self, submissions: list[Submission]) -> None:
        """The step is made without the lock, so that the writer can go on meanwhile. If what it was made from has been
        forgotten by then, because the store has refused it, it is made again."""
        failed: Exception | None = None
        while not self._abandoned:
            try:
                head = self._pipeline.head
                now = self._clock()
                self._deciding = Work(threading.get_ident(), next(self._numbers), now.monotonic_ms)
                step = self._pipeline.step(head, submissions, now)
            except Exception as error:
                log.critical("the kernel failed; nothing of this step happened", exc_info=True)
                self._abandoned = f"a bug in the kernel: {type(error).__name__}"
                failed = error
            else:
                with self._lock:
                    if not self._abandoned and self._pipeline.add(head, step, submissions):
                        return
            finally:
                self._deciding = None
        for submission in submissions:
            submission.tell(Failure(self._abandoned))
        if failed is not None:
            self._failed(failed)

    def _take_events(self) -> list[Submission]:
        """At least one, if any; as many as change no more documents than a step should."""
        first = self._next if self._next is not None else self._events.get()
        self._next = None
        if first is None:
            return []
        taken = [first]
        room = self._documents_max - _documents(first.event)
        while room > 0:
            try:
                submission = self._events.get_nowait()
            except queue.Empty:
                break
            if submission is None:
                continue
            room -= _documents(submission.event)
            if room < 0:
                self._next = submission
                break
            taken.append(submission)
        return taken

    def _write_forever(self) -> None:
        while True:
            self._write_wanted.wait()
            self._write_wanted.clear()
            try:
                self._write()
            except Exception as error:
                if not self._abandoned:
                    log.critical("the store's state is not known", exc_info=True)
                    self._failed(error)
                return
            if self._stopping and not self._threads[0].is_alive():
                return

    def _write(self) -> None:
        """All that can be written now. Raises OutcomeUnknown: nobody knows, or another server leads."""
        while not self._abandoned and (work := self._writer.next()) is not None:
            if isinstance(work, Transaction):
                if not self._transact(work):
                    return
            else:
                self._let_go(work)

    def _transact(self, transaction: Transaction) -> bool:
        """False: the store takes nothing now, so wait for the next occasion."""
        try:
            result = self._store.transact(transaction.writes, transaction.compares)
        except StoreRefused as error:
            if not self._writer.refusal:
                log.error("the store refuses writes: %s", error)
            self._let_go(self._writer.refused(str(error)))
            return False
        if not result.applied:
            raise OutcomeUnknown("another server has changed the state: this one is not the leader any more")
        released = self._writer.applied(result.revision)
        if released is not None:
            self._let_go(released)
        return True

    def _let_go(self, released: Released) -> None:
        if released.effects:
            self._release(released.effects)
        for submission, failure in released.told:
            submission.tell(failure)


def _documents(event: Event) -> int:
    """How many documents it changes, about."""
    match event:
        case AgentStatuses():
            return max(1, len(event.statuses))
        case AgentHello():
            return 1 + len(event.hello.statuses)
        case FrameworkActions():
            changes = (event.asks, event.kills, event.withdrawals, event.amendments, event.puts, event.deletes)
            return max(1, sum(map(len, changes)))
        case _:
            return 1

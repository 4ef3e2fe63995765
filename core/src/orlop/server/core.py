"""The shell of the commit pipeline: a kernel thread that decides, a writer thread that writes.

`submit` may be called from any thread. Effects are handed to `release` and outcomes to each submission's `done`, both
on the writer thread; they only enqueue. Every transaction is fenced: it compares the leader's key, which another
leader would have made anew, and the document that the last committed transaction wrote, so that a second writer of
whatever origin changes nothing.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from orlop.kernel import records
from orlop.kernel.events import Effect, Event
from orlop.kernel.kernel import Kernel
from orlop.kernel.loading import encode
from orlop.kernel.state import State
from orlop.model.clock import Now
from orlop.server import redo
from orlop.server.loading import LEADER_KEY, Term
from orlop.server.pipeline import Batch, Failure, Pipeline, Submission
from orlop.store.interface import Compare, Delete, Field, OutcomeUnknown, Put, Store, StoreRefused

log = logging.getLogger(__name__)

EVENTS_PER_STEP_MAX: Final = 200
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
        release: Callable[[Iterable[Effect]], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.kernel = kernel
        self._store = store
        writes_max = store.limits.operations - RESERVED_OPERATIONS
        self._pipeline = Pipeline(kernel, term.state, term.epoch, writes_max)
        # Most events change a document or two: such a step fits into one transaction.
        self._events_max = max(1, min(EVENTS_PER_STEP_MAX, writes_max // 2))
        self._leads = Compare(LEADER_KEY, Field.CREATE_REVISION, term.epoch.revision)
        self._fence = term.fence
        self._unfinished: list[tuple[redo.Write, ...]] = []
        self._clock = clock
        self._release = release
        self._failed = failed
        self._events: queue.SimpleQueue[Submission | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._gate = threading.Lock()
        self._closed = False
        self._write_wanted = threading.Event()
        self._stopping = False
        self._read_only = ""
        self._abandoned = ""
        self._threads = [
            threading.Thread(target=self._decide_forever, name="orlop-kernel", daemon=True),
            threading.Thread(target=self._write_forever, name="orlop-store", daemon=True),
        ]

    @property
    def committed(self) -> State:
        """The newest durable state."""
        return self._pipeline.committed

    @property
    def read_only_reason(self) -> str:
        """Why the store refused the last transaction; empty when it did not."""
        return self._read_only

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Writes what was decided, and ends."""
        self._stopping = True
        self._events.put(None)
        for thread in self._threads:
            thread.join(timeout=JOIN_S)

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

    def submit(self, event: Event, done: Callable[[Failure | None], None] | None = None) -> None:
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
                self._write_wanted.set()
        self._write_wanted.set()

    def _close_when_done(self) -> bool:
        with self._gate:
            self._closed = self._stopping and self._events.empty()
            return self._closed

    def _decide(self, submissions: list[Submission]) -> None:
        with self._lock:
            failed: Exception | None = None
            if not self._abandoned:
                try:
                    self._pipeline.decide(submissions, self._clock())
                    return
                except Exception as error:
                    log.critical("the kernel failed; nothing of this step happened", exc_info=True)
                    self._abandoned = f"a bug in the kernel: {type(error).__name__}"
                    failed = error
        for submission in submissions:
            submission.tell(Failure(self._abandoned))
        if failed is not None:
            self._failed(failed)

    def _take_events(self) -> list[Submission]:
        first = self._events.get()
        taken = [first] if first is not None else []
        while len(taken) < self._events_max:
            try:
                submission = self._events.get_nowait()
            except queue.Empty:
                break
            if submission is not None:
                taken.append(submission)
        return taken

    def _write_forever(self) -> None:
        while True:
            self._write_wanted.wait()
            self._write_wanted.clear()
            while (batch := self._take_batch()) is not None:
                try:
                    self._write(batch)
                except Exception as error:
                    if not self._abandoned:
                        log.critical("the store's state is not known", exc_info=True)
                        self._failed(error)
                    return
            if self._stopping and not self._threads[0].is_alive():
                return

    def _take_batch(self) -> Batch | None:
        with self._lock:
            return self._pipeline.take()

    def _write(self, batch: Batch) -> None:
        if batch.writes:
            try:
                self._commit(batch)
            except StoreRefused as error:
                self._refuse(str(error))
                return
            self._read_only = ""
        with self._lock:
            if self._abandoned:
                return
            self._pipeline.succeeded()
        self._release(batch.effects)
        for submission in batch.submissions:
            submission.tell(None)
        self._finish_quietly()

    def _commit(self, batch: Batch) -> None:
        """Raises StoreRefused: nothing has happened. OutcomeUnknown: nobody knows, or another server leads."""
        self._finish()
        writes: list[Put | Delete] = [
            Put(key, encode(document)) for key, document in batch.puts.items() if key != records.META_KEY
        ]
        writes += [Delete(key) for key in sorted(batch.deletes)]
        meta = Put(records.META_KEY, encode(batch.puts[records.META_KEY]))
        planned = redo.plan(writes, meta, batch.state.version, self._store.limits)
        for part in planned.before:
            self._transact(part)
        self._fence = self._transact(planned.commit)
        self._unfinished = list(planned.after)

    def _finish(self) -> None:
        """Puts the documents of a record that is durable in their places. Raises as `_commit`."""
        while self._unfinished:
            self._transact(self._unfinished[0])
            del self._unfinished[0]

    def _finish_quietly(self) -> None:
        """Without room it is tried again before the next commit: the record itself is durable."""
        try:
            self._finish()
        except StoreRefused as error:
            log.warning("a change is durable and not in its place yet: %s", error)

    def _transact(self, writes: Sequence[redo.Write]) -> int:
        """The revision of the transaction. Raises StoreRefused, OutcomeUnknown."""
        result = self._store.transact(writes, [self._leads, Compare(records.META_KEY, Field.MOD_REVISION, self._fence)])
        if not result.applied:
            raise OutcomeUnknown("another server has changed the state: this one is not the leader any more")
        return result.revision

    def _refuse(self, reason: str) -> None:
        if not self._read_only:
            log.error("the store refuses writes: %s", reason)
        self._read_only = reason
        with self._lock:
            forgotten = self._pipeline.refused() if not self._abandoned else []
        for submission in forgotten:
            submission.tell(Failure(reason))

"""The shell of the commit pipeline: a kernel thread that decides, a writer thread that writes.

`submit` may be called from any thread. Effects are handed to `release` and outcomes to each submission's `done`, both
on the writer thread; they only enqueue. A transaction is fenced: it compares the document that the last committed
transaction wrote, so that a second writer, should there ever be one, changes nothing.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Final

from orlop.kernel import records
from orlop.kernel.events import Effect, Event
from orlop.kernel.kernel import Kernel
from orlop.kernel.loading import encode
from orlop.kernel.state import State
from orlop.model.clock import Now
from orlop.model.messages import Epoch
from orlop.server.pipeline import Batch, Pipeline, Submission
from orlop.store.interface import Compare, Delete, Field, OutcomeUnknown, Put, Store, StoreRefused

log = logging.getLogger(__name__)

EVENTS_PER_STEP_MAX: Final = 200


class Core:
    """The cluster's one mutator, running. `failed` is called once, when the store's state is not known any more."""

    def __init__(
        self,
        kernel: Kernel,
        store: Store,
        state: State,
        epoch: Epoch,
        clock: Callable[[], Now],
        release: Callable[[Iterable[Effect]], None],
        failed: Callable[[Exception], None],
        fence: int,
    ) -> None:
        self.kernel = kernel
        self._store = store
        self._pipeline = Pipeline(kernel, state, epoch)
        self._clock = clock
        self._release = release
        self._failed = failed
        self._fence = fence
        self._events: queue.SimpleQueue[Submission | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._write_wanted = threading.Event()
        self._stopping = False
        self._read_only = ""
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
            thread.join(timeout=10)
            self._write_wanted.set()  # the writer may have looked just before the kernel's thread was gone

    def submit(self, event: Event, done: Callable[[str | None], None] | None = None) -> None:
        """Queues an event."""
        self._events.put(Submission(event, done))

    def _decide_forever(self) -> None:
        while True:
            submissions = self._take_events()
            if submissions:
                try:
                    with self._lock:
                        self._pipeline.decide(submissions, self._clock())
                except Exception as error:
                    log.critical("the kernel failed; nothing of this step happened", exc_info=True)
                    self._failed(error)
                    return
                self._write_wanted.set()
            if self._stopping and self._events.empty():
                self._write_wanted.set()
                return

    def _take_events(self) -> list[Submission]:
        first = self._events.get()
        taken = [first] if first is not None else []
        while len(taken) < EVENTS_PER_STEP_MAX:
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
            writes: list[Put | Delete] = [Put(key, encode(document)) for key, document in batch.puts.items()]
            writes += [Delete(key) for key in sorted(batch.deletes)]
            fence = Compare(records.META_KEY, Field.MOD_REVISION, self._fence)
            try:
                result = self._store.transact(writes, [fence])
            except StoreRefused as error:
                self._refuse(str(error))
                return
            if not result.applied:
                raise OutcomeUnknown("another writer has changed the state: this server is not the leader any more")
            self._fence = result.revision
            self._read_only = ""
        with self._lock:
            self._pipeline.succeeded()
        self._release(batch.effects)
        for submission in batch.submissions:
            if submission.done is not None:
                submission.done(None)

    def _refuse(self, reason: str) -> None:
        if not self._read_only:
            log.error("the store refuses writes: %s", reason)
        self._read_only = reason
        with self._lock:
            forgotten = self._pipeline.refused()
        for submission in forgotten:
            if submission.done is not None:
                submission.done(reason)

"""From decided batches to transactions of the store, and from the store's answers to what may be released. Pure.

The shell asks `next` what to do, does it, and tells how it went: `applied`, or `refused` when the store definitely did
not take it. Every transaction is fenced: it compares the leader's key, which another leader would have made anew, and
the state's own document, which every change writes. If a fence fails, or nobody knows how a transaction went, the shell
ends the term; there is no method for that here. What has no stored form is refused like what the store refuses:
nothing of it was sent. Frameworks do not come so far with it, see `storable`.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager

import attrs

from orlop.kernel import records
from orlop.kernel.events import Effect
from orlop.kernel.loading import encode
from orlop.server import redo
from orlop.server.loading import LEADER_KEY, Term
from orlop.server.pipeline import Batch, Failure, Pipeline, Submission
from orlop.store.interface import Compare, Delete, Field, Limits, Put, StoreRefused
from orlop.store.requests import check_key

log = logging.getLogger(__name__)


@attrs.frozen
class Transaction:
    """For the store."""

    writes: tuple[redo.Write, ...]
    compares: tuple[Compare, ...]


@attrs.frozen
class Released:
    """What may leave now: effects of what is durable, and whom to tell that it is, or why not."""

    effects: tuple[Effect, ...] = ()
    told: tuple[tuple[Submission, Failure | None], ...] = ()


@attrs.define
class _Writing:
    """One batch on its way."""

    parts: list[tuple[redo.Write, ...]]
    until_durable: int


class Writer:
    """See the module. lock: held while the pipeline is touched, for shells with threads."""

    def __init__(self, pipeline: Pipeline, term: Term, limits: Limits, lock: AbstractContextManager[object]) -> None:
        self._pipeline = pipeline
        self._leads = Compare(LEADER_KEY, Field.CREATE_REVISION, term.epoch.revision)
        self._fence = term.fence
        self._limits = limits
        self._lock = lock
        self._writing: _Writing | None = None
        self.refusal = ""

    def next(self) -> Transaction | Released | None:
        """What to do next; None: nothing, until there is a new batch."""
        if self._writing is None:
            with self._lock:
                batch = self._pipeline.take()
            if batch is None:
                return None
            if not batch.writes:
                return self._succeeded()
            try:
                self._writing = self._plan(batch)
            except StoreRefused as error:
                return self.refused(str(error))
            except (TypeError, ValueError) as error:
                log.error("what was decided cannot be written: %s", error, exc_info=True)
                released = self.refused(str(error))
                self.refusal = ""  # it is no fault of the store's, which takes the next
                return released
        fence = Compare(records.META_KEY, Field.MOD_REVISION, self._fence)
        return Transaction(self._writing.parts[0], (self._leads, fence))

    def _plan(self, batch: Batch) -> _Writing:
        writes: list[redo.Write] = [
            Put(key, encode(document)) for key, document in batch.puts.items() if key != records.META_KEY
        ]
        writes += [Delete(key) for key in sorted(batch.deletes)]
        meta = Put(records.META_KEY, encode(batch.puts[records.META_KEY]))
        for write in writes:
            check_key(write.key)
        planned = redo.plan(writes, meta, batch.state.version, self._limits)
        return _Writing([*planned.before, planned.commit, *planned.after], len(planned.before) + 1)

    def applied(self, revision: int) -> Released | None:
        """The transaction is durable, at this revision."""
        writing = self._writing
        assert writing is not None, "a transaction was given out"
        self.refusal = ""
        del writing.parts[0]
        writing.until_durable -= 1
        if not writing.parts:
            self._writing = None
        if writing.until_durable != 0:
            return None
        self._fence = revision
        return self._succeeded()

    def _succeeded(self) -> Released | None:
        with self._lock:
            if self._pipeline.is_abandoned:
                return None
            batch = self._pipeline.succeeded()
        return Released(tuple(batch.effects), tuple((one, None) for one in batch.submissions))

    def refused(self, reason: str) -> Released:
        """The store did not take it. What is durable already, and only not in its place, is tried again later."""
        self.refusal = reason
        if self._writing is not None and self._writing.until_durable > 0:
            self._writing = None
        with self._lock:
            forgotten = self._pipeline.refused()
        return Released(told=tuple((one, Failure(reason)) for one in forgotten))

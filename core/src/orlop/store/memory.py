"""The store in memory, for tests, the simulator and trying things out. Nothing survives the process.

Theory of operation: for each key the list of its states, one per revision that wrote it (None for a deletion), and
one log of all changes by revision, for watches. Both are searched by bisection. One lock covers all.
"""

from __future__ import annotations

import bisect
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter

from orlop.store import requests
from orlop.store.interface import (
    Change,
    Compacted,
    Compare,
    Delete,
    Entry,
    Field,
    FutureRevision,
    Limits,
    Put,
    RangeResult,
    StoreError,
    StoreRefused,
    TransactionResult,
)
from orlop.store.local import LocalStore

_revision_of = itemgetter(0)


class MemoryStore(LocalStore):
    """See `interface.Store`. clock: monotonic seconds, for leases."""

    def __init__(
        self,
        *,
        limits: Limits = requests.GENEROUS_LIMITS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(clock, itertools.count(1).__next__)
        self.limits = limits
        self.exclusive = True
        self._lock = threading.RLock()
        self._closed = False
        self._revision = 1
        self._oldest = 0
        self._states: dict[str, list[tuple[int, Entry | None]]] = {}
        self._keys: list[str] = []
        self._log: list[tuple[int, tuple[Change, ...]]] = []

    def get(self, key: str, *, revision: int | None = None, stale: bool = False) -> Entry | None:
        """See `interface.Store.get`."""
        requests.check_key(key)
        requests.check_revision(revision)
        with self._writing():
            return self._state(key, self._readable(revision))

    def range(
        self,
        prefix: str,
        *,
        revision: int | None = None,
        after: str | None = None,
        limit: int | None = None,
        stale: bool = False,
    ) -> RangeResult:
        """See `interface.Store.range`."""
        requests.check_range(prefix, after, limit)
        requests.check_revision(revision)
        with self._writing():
            at = self._readable(revision)
            states = (self._state(key, at) for key in self._keys_from(prefix, after))
            found = (entry for entry in states if entry is not None)
            entries = tuple(itertools.islice(found, limit))
            return RangeResult(entries, self._revision if revision is None else revision, next(found, None) is not None)

    def transact(self, writes: Sequence[Put | Delete], compares: Sequence[Compare] = ()) -> TransactionResult:
        """See `interface.Store.transact`."""
        requests.check_transaction(writes, compares, self.limits)
        with self._writing():
            if not all(self._holds(compare) for compare in compares):
                return TransactionResult(False, self._revision)
            for write in writes:
                if isinstance(write, Put) and write.lease and write.lease not in self._leases:
                    raise StoreRefused(f"{write.key!r} is put with lease {write.lease}, which has ended or never was")
            self._apply(writes)
            return TransactionResult(True, self._revision)

    def compact(self, revision: int) -> None:
        """See `interface.Store.compact`."""
        requests.check_revision(revision)
        with self._hub.reading, self._writing():
            self._readable(revision)
            if revision == self._oldest:
                raise Compacted(revision, self._oldest)
            self._hub.spare_up_to_date(revision)
            self._oldest = revision
            del self._log[: bisect.bisect_right(self._log, revision, key=_revision_of)]
            for key, states in self._states.items():
                self._states[key] = _compacted(states, revision)
            self._states = {key: states for key, states in self._states.items() if states}
            self._keys = sorted(self._states)

    def close(self) -> None:
        """See `interface.Store.close`."""
        self._hub.close()
        with self._lock:
            self._closed = True

    @contextmanager
    def _opened(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise StoreError("the store is closed")
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Reading goes this way too: nobody sees a key of a lease whose time is over."""
        with self._opened():
            for lease in self._leases.due():
                self._end_lease(lease)
            yield

    def _end_lease(self, lease: int) -> None:
        self._leases.drop(lease)
        held = [key for key in self._keys if (entry := self._latest(key)) is not None and entry.lease == lease]
        self._apply([Delete(key) for key in held])

    def _readable(self, revision: int | None) -> int:
        if revision is None:
            return self._revision
        if revision < self._oldest:
            raise Compacted(revision, self._oldest)
        if revision > self._revision:
            raise FutureRevision(f"revision {revision} has not happened yet; the store is at {self._revision}")
        return revision

    def _keys_from(self, prefix: str, after: str | None) -> Iterator[str]:
        start = bisect.bisect_left(self._keys, prefix)
        if after is not None:
            start = max(start, bisect.bisect_right(self._keys, after))
        for index in range(start, len(self._keys)):
            if not self._keys[index].startswith(prefix):
                return
            yield self._keys[index]

    def _state(self, key: str, revision: int) -> Entry | None:
        states = self._states.get(key, [])
        index = bisect.bisect_right(states, revision, key=_revision_of)
        return states[index - 1][1] if index else None

    def _latest(self, key: str) -> Entry | None:
        states = self._states.get(key)
        return states[-1][1] if states else None

    def _holds(self, compare: Compare) -> bool:
        entry = self._latest(compare.key)
        if entry is None:
            return compare.field is not Field.VALUE and compare.expected == 0
        return bool(getattr(entry, compare.field.value) == compare.expected)

    def _apply(self, writes: Sequence[Put | Delete]) -> None:
        revision = self._revision + 1
        changes = tuple(
            Change(write.key, self._successor(write, revision), revision)
            for write in writes
            if isinstance(write, Put) or self._latest(write.key) is not None
        )
        if not changes:
            return
        for change in changes:
            if change.key not in self._states:
                bisect.insort(self._keys, change.key)
            self._states.setdefault(change.key, []).append((revision, change.entry))
        self._log.append((revision, changes))
        self._revision = revision
        self._hub.announce()

    def _successor(self, write: Put | Delete, revision: int) -> Entry | None:
        if isinstance(write, Delete):
            return None
        before = self._latest(write.key)
        if before is None:
            return Entry(write.key, write.value, revision, revision, 1, write.lease)
        return Entry(write.key, write.value, before.create_revision, revision, before.version + 1, write.lease)

    def _changes_after(self, prefix: str, after: int) -> tuple[tuple[Change, ...], int]:
        with self._writing():
            if after < self._oldest:
                raise Compacted(after, self._oldest)
            for index in range(bisect.bisect_right(self._log, after, key=_revision_of), len(self._log)):
                revision, changes = self._log[index]
                seen = tuple(change for change in changes if change.key.startswith(prefix))
                if seen:
                    return seen, revision
            return (), max(after, self._revision)


def _compacted(states: list[tuple[int, Entry | None]], revision: int) -> list[tuple[int, Entry | None]]:
    """Without what only revisions before `revision` could see."""
    index = bisect.bisect_right(states, revision, key=_revision_of)
    if index and states[index - 1][1] is not None:
        index -= 1
    return states[index:]

"""Watches of the stores that live within one process.

Theory of operation: a watch has no queue that could overflow. It is a prefix and a cursor (the last revision it has
looked at); `next` asks the store for the first later revision that has a change, and only waits when there is none.
Whoever commits calls `announce`, which wakes the waiting. A watch that lags costs nothing; once what it has not read
yet is compacted, it raises Compacted, and its owner lists anew. Compaction never harms a watch that has missed
nothing: its cursor is moved first (`spare_up_to_date`).

Locks: `reading` protects the cursors and is taken before any lock of the store, never after one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from orlop.store.interface import Change, Compacted, StoreError

#: How soon a waiting watch looks again, at most, when a lease is overdue but could not be ended.
OVERDUE_RETRY_S: Final = 0.2

#: (prefix, after revision) -> the changes of the first later revision that has any, and the revision read up to.
Reader = Callable[[str, int], tuple[tuple[Change, ...], int]]


class WatchHub:
    """All watches of one store.

    read: see `Reader`; raises Compacted, StoreError. until_next_expiry_s: seconds until a lease is due, None without.
    """

    def __init__(self, read: Reader, until_next_expiry_s: Callable[[], float | None]) -> None:
        self.reading = threading.RLock()
        self._read = read
        self._until_next_expiry_s = until_next_expiry_s
        self._wakeup = threading.Condition()
        self._announcements = 0
        self._open: set[CursorWatch] = set()

    def watch(self, prefix: str, after_revision: int) -> CursorWatch:
        """A new watch, open until its `close` or the hub's."""
        watch = CursorWatch(self, prefix, after_revision)
        with self._wakeup:
            self._open.add(watch)
        return watch

    def announce(self) -> None:
        """There is a new revision."""
        with self._wakeup:
            self._announcements += 1
            self._wakeup.notify_all()

    def spare_up_to_date(self, revision: int) -> None:
        """Before compacting to `revision` (and with `reading` held): moves each watch that has missed nothing."""
        with self._wakeup:
            watches = tuple(self._open)
        for watch in watches:
            if watch.cursor >= revision:
                continue
            try:
                changes, _ = self._read(watch.prefix, watch.cursor)
            except Compacted:
                continue
            if not changes or changes[0].revision > revision:
                watch.cursor = revision

    def close(self) -> None:
        """Ends all watches."""
        with self._wakeup:
            self._open.clear()
            self._wakeup.notify_all()

    def _close_one(self, watch: CursorWatch) -> None:
        with self._wakeup:
            self._open.discard(watch)
            self._wakeup.notify_all()

    def _wake_one(self, watch: CursorWatch) -> None:
        with self._wakeup:
            watch.woken = True
            self._wakeup.notify_all()

    def _is_open(self, watch: CursorWatch) -> bool:
        with self._wakeup:
            return watch in self._open

    def _next(self, watch: CursorWatch, timeout_s: float) -> tuple[Change, ...]:
        deadline = time.monotonic() + timeout_s
        while True:
            with self._wakeup:
                seen = self._announcements
                if watch not in self._open:
                    return ()
            with self.reading:
                changes, watch.cursor = self._read(watch.prefix, watch.cursor)
            remaining = deadline - time.monotonic()
            if changes or remaining <= 0 or watch.woken:
                watch.woken = False
                return changes
            self._wait(watch, seen, remaining)

    def _wait(self, watch: CursorWatch, seen: int, timeout_s: float) -> None:
        expiry_s = self._until_next_expiry_s()
        if expiry_s is not None:
            timeout_s = min(timeout_s, max(expiry_s, OVERDUE_RETRY_S))
        with self._wakeup:
            self._wakeup.wait_for(
                lambda: self._announcements != seen or watch.woken or watch not in self._open, timeout_s
            )


class CursorWatch:
    """See `interface.Watch`."""

    def __init__(self, hub: WatchHub, prefix: str, after_revision: int) -> None:
        self.prefix = prefix
        self.cursor = after_revision
        self.woken = False
        self._hub = hub

    def next(self, timeout_s: float) -> tuple[Change, ...]:
        """All changes of the next revision that has any; empty after `timeout_s` seconds."""
        if not self._hub._is_open(self):
            raise StoreError("the watch is closed")
        try:
            return self._hub._next(self, timeout_s)
        except StoreError:
            if not self._hub._is_open(self):
                return ()
            raise

    def wake(self) -> None:
        """A `next` that waits, or else the following one, does not wait any longer."""
        self._hub._wake_one(self)

    def close(self) -> None:
        """Ends it; a waiting `next` returns empty."""
        self._hub._close_one(self)

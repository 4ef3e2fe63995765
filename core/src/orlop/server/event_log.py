"""The event log as the server shows it: the newest records in memory, the older ones from the store, followers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from orlop.kernel import records
from orlop.kernel.events import Logged
from orlop.model.documents import from_bytes
from orlop.model.log_entries import LogEntry, LogRecord
from orlop.store.interface import Entry, Store

RECORDS_IN_MEMORY_MAX: Final = 1_000
FOLLOWER_QUEUE_MAX: Final = 1_024
RECORDS_PER_PAGE: Final = 500

Numbered = tuple[int, int, LogEntry]


def cut_off(follower: asyncio.Queue[Any]) -> None:
    """Empties the queue of a follower that is too slow: what it has not seen it must ask for, without a hole."""
    while not follower.empty():
        follower.get_nowait()
    follower.put_nowait(None)


class EventLog:
    """Lives on the event loop. kept: how many transactions' records the store keeps."""

    def __init__(self, store: Store, kept: int) -> None:
        self._store = store
        self._kept = kept
        self._recent: deque[Logged] = deque(maxlen=RECORDS_IN_MEMORY_MAX)
        self._followers: set[asyncio.Queue[Logged | None]] = set()

    def add(self, logged: Logged) -> None:
        """A record that is durable now."""
        self._recent.append(logged)
        for follower in list(self._followers):
            try:
                follower.put_nowait(logged)
            except asyncio.QueueFull:
                self._followers.discard(follower)
                cut_off(follower)

    def close(self) -> None:
        """No follower hears any more: they ask the next leader, from where they are."""
        followers, self._followers = self._followers, set()
        for follower in followers:
            cut_off(follower)

    @contextmanager
    def follow(self) -> Iterator[asyncio.Queue[Logged | None]]:
        """A queue of records from now on; None: the follower was too slow and gets no more."""
        follower: asyncio.Queue[Logged | None] = asyncio.Queue(FOLLOWER_QUEUE_MAX)
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)

    async def entries(
        self, *, after: tuple[int, int] | None, limit: int, wanted: Callable[[LogEntry], bool], version: int
    ) -> tuple[list[Numbered], bool]:
        """Ascending; the last `limit` ones without `after`, else the first `limit` beyond it. version: the state's.

        The flag: entries beyond `after` have been dropped. `wanted` may be called on another thread. The store is
        asked for what memory does not have, page by page, and no further than `limit` needs.
        """
        recent = list(self._recent)
        if after is None:
            found = _matching(recent, wanted)
            if len(found) < limit:
                first = recent[0].version if recent else version + 1
                missing = limit - len(found)
                found = await asyncio.to_thread(self._stored_before, first, version, missing, wanted) + found
            return found[-limit:], False
        gap = after[0] < version - self._kept
        if recent and after[0] >= recent[0].version:
            found = _matching(recent, wanted, after)
        else:
            found = await asyncio.to_thread(self._stored_after, after, limit, wanted)
        return found[:limit], gap

    def _stored_after(self, after: tuple[int, int], limit: int, wanted: Callable[[LogEntry], bool]) -> list[Numbered]:
        """At least the first `limit` entries, or all there are."""
        found: list[Numbered] = []
        key = records.log_key(after[0] - 1) if after[0] > 0 else None
        while True:
            page = self._store.range(records.LOG, after=key, limit=RECORDS_PER_PAGE)
            found += _matching(map(_logged, page.entries), wanted, after)
            if not page.more or len(found) >= limit:
                return found
            key = page.entries[-1].key

    def _stored_before(
        self, before: int, version: int, limit: int, wanted: Callable[[LogEntry], bool]
    ) -> list[Numbered]:
        """At least the last `limit` entries of versions below `before`, or all that are kept.

        A version has one record at most, so that a page of versions is a page of records.
        """
        found: list[Numbered] = []
        oldest = max(0, version - self._kept + 1)
        while before > oldest and len(found) < limit:
            start = max(oldest, before - RECORDS_PER_PAGE)
            key = records.log_key(start - 1) if start > 0 else None
            page = self._store.range(records.LOG, after=key, limit=before - start)
            logged = [one for one in map(_logged, page.entries) if one.version < before]
            found = _matching(logged, wanted) + found
            before = start
        return found


def _logged(entry: Entry) -> Logged:
    """Raises DocumentError."""
    record = from_bytes(entry.value, LogRecord, entry.key)
    return Logged(version=int(entry.key.removeprefix(records.LOG)), entries=record.entries)


def _matching(
    logged: Iterable[Logged], wanted: Callable[[LogEntry], bool], after: tuple[int, int] = (-1, -1)
) -> list[Numbered]:
    return [
        (one.version, index, entry)
        for one in logged
        for index, entry in enumerate(one.entries)
        if (one.version, index) > after and wanted(entry)
    ]

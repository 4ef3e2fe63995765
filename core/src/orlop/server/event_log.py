"""The event log as the server shows it: the newest records in memory, the older ones from the store, followers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from orlop.kernel import records
from orlop.kernel.events import Logged
from orlop.model.documents import from_bytes
from orlop.model.events import LogEntry, LogRecord
from orlop.store.interface import Store

RECORDS_IN_MEMORY_MAX: Final = 1_000
FOLLOWER_QUEUE_MAX: Final = 1_024

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

        The flag: entries beyond `after` have been dropped.
        """
        gap = after is not None and after[0] < version - self._kept
        found: list[Numbered] = []
        start = after if after is not None else (-1, -1)
        for logged in await self._records_after(start[0]):
            for index, entry in enumerate(logged.entries):
                if (logged.version, index) > start and wanted(entry):
                    found.append((logged.version, index, entry))
        return (found[:limit] if after is not None else found[-limit:]), gap

    async def _records_after(self, version: int) -> list[Logged]:
        recent = list(self._recent)
        if recent and version >= recent[0].version - 1:
            return recent
        return await asyncio.to_thread(self._stored_after, version)

    def _stored_after(self, version: int) -> list[Logged]:
        after = records.log_key(version - 1) if version > 0 else None
        found = []
        for entry in self._store.range(records.LOG, after=after).entries:
            record = from_bytes(entry.value, LogRecord, entry.key)
            found.append(Logged(version=int(entry.key.removeprefix(records.LOG)), entries=record.entries))
        return found

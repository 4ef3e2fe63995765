"""The event log: the same answers as one long list would give, and no more of the store read than they need."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.kernel import records
from orlop.kernel.events import Logged
from orlop.model.documents import to_bytes
from orlop.model.log_entries import LogEntry, LogRecord
from orlop.server import event_log
from orlop.server.event_log import EventLog
from orlop.store.interface import Put, RangeResult
from orlop.store.memory import MemoryStore

Numbered = tuple[int, int, LogEntry]


class CountingStore(MemoryStore):
    """Counts the records that were read."""

    def __init__(self) -> None:
        super().__init__()
        self.read = 0

    def range(
        self,
        prefix: str,
        *,
        revision: int | None = None,
        after: str | None = None,
        limit: int | None = None,
        stale: bool = False,
    ) -> RangeResult:
        result = super().range(prefix, revision=revision, after=after, limit=limit, stale=stale)
        self.read += len(result.entries)
        return result


def make(sizes: list[int], in_memory: int, kept: int = 10_000) -> tuple[EventLog, CountingStore, list[Numbered]]:
    """A log with so many entries per version, the last `in_memory` records in memory too; and all of its entries."""
    store = CountingStore()
    log = EventLog(store, kept)
    everything: list[Numbered] = []
    for version, size in enumerate(sizes):
        entries = tuple(
            LogEntry(type="task.running", subject=f"task-{(version + index) % 3}", utc_ms=version)
            for index in range(size)
        )
        if not entries:
            continue  # a transaction without events leaves no record
        if version >= len(sizes) - kept:
            store.transact([Put(records.log_key(version), to_bytes(LogRecord(entries=entries)))])
            everything += [(version, index, entry) for index, entry in enumerate(entries)]
        if version >= len(sizes) - in_memory:
            log.add(Logged(version=version, entries=entries))
    return log, store, everything


def ask(
    log: EventLog, version: int, *, after: tuple[int, int] | None = None, limit: int = 100, subject: str | None = None
) -> tuple[list[Numbered], bool]:
    return asyncio.run(
        log.entries(after=after, limit=limit, wanted=lambda entry: subject in (None, entry.subject), version=version)
    )


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    in_memory=st.integers(0, 40),
    limit=st.integers(1, 60),
    after=st.none() | st.tuples(st.integers(0, 45), st.integers(0, 3)),
    subject=st.none() | st.just("task-1"),
    page=st.integers(1, 8),
)
def test_any_page_is_a_slice_of_the_whole(
    sizes: list[int],
    in_memory: int,
    limit: int,
    after: tuple[int, int] | None,
    subject: str | None,
    page: int,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_log, "RECORDS_PER_PAGE", page)
        log, _, everything = make(sizes, in_memory)
        found, gap = ask(log, len(sizes) - 1, after=after, limit=limit, subject=subject)
    wanted = [one for one in everything if subject in (None, one[2].subject)]
    if after is None:
        assert found == wanted[-limit:]
    else:
        assert found == [one for one in wanted if one[:2] > after][:limit]
    assert not gap


def test_the_newest_come_from_memory() -> None:
    log, store, everything = make([1] * 3_000, in_memory=1_000)
    found, _ = ask(log, 2_999, limit=1_000)
    assert found == everything[-1_000:]
    assert store.read == 0


@pytest.mark.parametrize("after", [None, (0, 0), (1_234, 0)])
def test_reading_stops_at_the_limit(after: tuple[int, int] | None) -> None:
    log, store, everything = make([1] * 5_000, in_memory=0)
    found, _ = ask(log, 4_999, after=after, limit=100)
    assert len(found) == 100
    assert found[0] == (everything[-100] if after is None else everything[after[0] + 1])
    assert store.read <= event_log.RECORDS_PER_PAGE


def test_what_is_rare_is_looked_for_in_all_that_is_kept() -> None:
    log, store, everything = make([1] * 2_000, in_memory=100, kept=1_500)
    found, gap = ask(log, 1_999, subject="nobody")
    assert (found, gap) == ([], False)
    assert store.read == 1_400, "each record that is not in memory, once"
    found, gap = ask(log, 1_999, after=(10, 0), limit=1)
    assert (found, gap) == (everything[:1], True)

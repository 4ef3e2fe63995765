"""What a standby knows when its store has lost the quorum before it was read once."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import waiting

from orlop.kernel import records
from orlop.model.documents import to_bytes
from orlop.server.mirror import Mirror, MirrorNews
from orlop.store.interface import Entry, Put, RangeResult, StoreError
from orlop.store.memory import MemoryStore

DEADLINE_S = 10.0

eventually = functools.partial(waiting.wait_until, deadline_s=DEADLINE_S)
WRITTEN_UTC_MS = 1_000_000
STARTED_UTC_MS = WRITTEN_UTC_MS + 90_000


class WithoutQuorum(MemoryStore):
    """A store of which one member is left; `answers` when it has any by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.quorum = True
        self.answers = True
        self.listed = 0

    def get(self, key: str, *, revision: int | None = None, stale: bool = False) -> Entry | None:
        self._ask(stale)
        return super().get(key, revision=revision)

    def range(self, prefix: str, *, stale: bool = False, **options: Any) -> RangeResult:
        self._ask(stale)
        self.listed += 1
        return super().range(prefix, **options)

    def _ask(self, stale: bool) -> None:
        if not self.quorum and not (stale and self.answers):
            raise StoreError("no leader")


def write(store: MemoryStore, version: int) -> None:
    meta = records.Meta(cluster_id="c", generation=1, version=version, utc_ms=WRITTEN_UTC_MS, next_sequence=1)
    store.transact([Put(records.META_KEY, to_bytes(meta))])


@contextmanager
def mirroring(store: MemoryStore) -> Iterator[tuple[Mirror, list[MirrorNews]]]:
    told: list[MirrorNews] = []
    began_s = time.monotonic()

    def passed_ms() -> int:
        return round(1000 * (time.monotonic() - began_s))

    mirror = Mirror(store, {}, passed_ms, lambda: STARTED_UTC_MS + passed_ms(), told.append)
    mirror.start()
    try:
        yield mirror, told
    finally:
        mirror.stop()


def version_of(mirror: Mirror) -> int:
    state = mirror.state()
    return state.version if state is not None else 0


def test_what_a_member_has_by_itself_is_known_with_its_age_until_the_store_confirms_more() -> None:
    store = WithoutQuorum()
    write(store, 7)
    store.quorum = False
    with mirroring(store) as (mirror, told):
        eventually(lambda: mirror.serves, "it makes do")
        assert version_of(mirror) == 7
        assert not mirror.loaded
        assert mirror.error == "no leader"
        assert 90_000 <= mirror.age_ms() < 90_000 + 1000 * DEADLINE_S
        eventually(lambda: told and told[-1].error, "it is told, so that nobody campaigns with it")
        listed = store.listed
        write(store, 8)
        eventually(lambda: version_of(mirror) == 8, "what the member has learnt meanwhile is known too")
        assert store.listed > listed
        store.quorum = True
        eventually(lambda: mirror.loaded and not mirror.error, "the store confirms it")
        eventually(lambda: mirror.age_ms() < 5_000, "it is new")
        assert not told[-1].error


def test_without_any_answer_nothing_is_known_and_the_reason_is() -> None:
    store = WithoutQuorum()
    write(store, 7)
    store.quorum = store.answers = False
    with mirroring(store) as (mirror, told):
        eventually(lambda: told, "it says that it cannot read")
        assert not mirror.serves
        assert mirror.state() is None
        assert mirror.error == "no leader"


def test_a_confirmed_copy_is_never_given_up_for_what_one_member_has() -> None:
    store = WithoutQuorum()
    write(store, 7)
    with mirroring(store) as (mirror, told):
        eventually(lambda: mirror.loaded, "it is loaded")
        store.quorum = False
        eventually(lambda: told[-1].error, "the store is lost")
        write(store, 8)
        failures = store.listed
        assert version_of(mirror) == 7
        assert store.listed == failures
        assert mirror.loaded

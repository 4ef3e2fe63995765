"""What every store must do, in the words of its interface. A new backend joins with one factory in `BACKENDS`.

Revisions are compared with those seen before, never with fixed numbers: a shared backend may have a history.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
from etcd_members import EtcdCluster
from simulated_client import SimulatedClient
from stored import entry_of, value_of, values_put

from orlop.store.etcd import EtcdStore
from orlop.store.etcd_address import StoreAccess, parse_address
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
    Store,
    StoreError,
    StoreRefused,
)
from orlop.store.memory import MemoryStore
from orlop.store.sqlite import SqliteStore

DEADLINE_S = 20.0
LIMITS = Limits(operations=128, bytes=1_572_864)


@attrs.define
class Backend:
    """store: empty, with `LIMITS`. pass_time: lets so many seconds pass for leases."""

    store: Store
    pass_time: Callable[[float], None]


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def memory_backend(request: pytest.FixtureRequest) -> Backend:
    clock = FakeClock()
    return Backend(MemoryStore(limits=LIMITS, clock=clock), clock.advance)


def simulated_backend(request: pytest.FixtureRequest) -> Backend:
    store = SimulatedClient(next(numbers), LIMITS)
    return Backend(store, store.pass_time)


def sqlite_backend(request: pytest.FixtureRequest) -> Backend:
    clock = FakeClock()
    folder: Path = request.getfixturevalue("tmp_path")
    return Backend(SqliteStore(folder / "store.db", limits=LIMITS, clock=clock), clock.advance)


def etcd_backend(request: pytest.FixtureRequest) -> Backend:
    """One etcd for all tests, a prefix for each; leases that a test has left would end in another one."""
    etcd: EtcdCluster = request.getfixturevalue("etcd")
    etcd.end_leases()
    store = EtcdStore(parse_address(etcd.url(f"test-{next(numbers)}"), StoreAccess()), limits=LIMITS)
    return Backend(store, time.sleep)


numbers = itertools.count()
BACKENDS: dict[str, Callable[[pytest.FixtureRequest], Backend]] = {
    "memory": memory_backend,
    "simulated": simulated_backend,
    "sqlite": sqlite_backend,
    "etcd": etcd_backend,
}


@pytest.fixture(params=list(BACKENDS.values()), ids=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    made = request.param(request)
    yield made
    made.store.close()


@pytest.fixture
def store(backend: Backend) -> Store:
    return backend.store


def put(store: Store, key: str, value: bytes = b"", lease: int = 0) -> int:
    result = store.transact([Put(key, value, lease)])
    assert result.applied
    return result.revision


def delete(store: Store, *keys: str) -> int:
    return store.transact([Delete(key) for key in keys]).revision


def revision_of(store: Store) -> int:
    return store.range("", limit=1).revision


def keys(store: Store, prefix: str = "", **where) -> list[str]:
    return [entry.key for entry in store.range(prefix, **where).entries]


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether it comes true in time; every backend may end a lease late."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class TestReading:
    def test_an_entry_tells_its_history(self, store: Store) -> None:
        assert store.get("a") is None
        first = put(store, "a", b"1")
        second = put(store, "a", b"2")
        assert second == first + 1
        assert store.get("a") == Entry("a", b"2", create_revision=first, mod_revision=second, version=2)

    def test_a_key_made_again_begins_again(self, store: Store) -> None:
        put(store, "a", b"1")
        deleted = delete(store, "a")
        assert store.get("a") is None
        made = put(store, "a", b"3")
        assert made == deleted + 1
        assert store.get("a") == Entry("a", b"3", made, made, 1)

    def test_the_past_stays_readable(self, store: Store) -> None:
        empty = revision_of(store)
        first = put(store, "a", b"1")
        second = put(store, "a", b"2")
        third = delete(store, "a")
        put(store, "a", b"4")
        assert store.get("a", revision=empty) is None
        assert store.get("a", revision=first) == Entry("a", b"1", first, first, 1)
        assert store.get("a", revision=second) == Entry("a", b"2", first, second, 2)
        assert store.get("a", revision=third) is None
        assert [len(store.range("", revision=r).entries) for r in (empty, first, second, third)] == [0, 1, 1, 0]

    def test_the_future_cannot_be_read(self, store: Store) -> None:
        future = put(store, "a") + 1
        with pytest.raises(FutureRevision):
            store.get("a", revision=future)
        with pytest.raises(FutureRevision):
            store.range("", revision=future)
        with pytest.raises(FutureRevision):
            store.compact(future)

    def test_a_value_may_be_empty_or_any_bytes(self, store: Store) -> None:
        put(store, "empty", b"")
        put(store, "all", bytes(range(256)))
        assert value_of(store, "empty") == b""
        assert value_of(store, "all") == bytes(range(256))


class TestRange:
    def test_a_prefix_is_text_and_the_order_is_by_code_point(self, store: Store) -> None:
        names = ["a", "a/", "a/b", "a0", "aé", "a\uffee", "a\U0001f600", "a\U0010ffff", "a\U0010ffffz", "b", "\ud7ff"]
        for name in reversed(names):
            put(store, name)
        assert keys(store) == sorted(names)
        assert keys(store, "a/") == ["a/", "a/b"]
        assert keys(store, "a") == sorted(name for name in names if name.startswith("a"))
        assert keys(store, "a\U0010ffff") == ["a\U0010ffff", "a\U0010ffffz"]
        assert keys(store, "\ud7ff") == ["\ud7ff"]
        assert keys(store, "c") == []

    def test_pages_of_one_revision_miss_and_repeat_nothing(self, store: Store) -> None:
        names = [f"k/{number:03}" for number in range(25)]
        store.transact([Put(name, b"old") for name in names])
        page = store.range("k/", limit=10)
        at = page.revision
        assert page.more
        store.transact([Put("k/0105", b"new"), Delete("k/020"), Put("k/012", b"new")])
        listed = list(page.entries)
        while page.more:
            page = store.range("k/", revision=at, after=listed[-1].key, limit=10)
            assert page.revision == at
            listed += page.entries
        assert [entry.key for entry in listed] == names
        assert {entry.value for entry in listed} == {b"old"}

    def test_more_is_said_only_when_the_limit_cut(self, store: Store) -> None:
        store.transact([Put("a", b""), Put("b", b""), Put("c", b"")])
        delete(store, "c")
        assert store.range("", limit=1).more
        assert not store.range("", limit=2).more
        assert not store.range("", limit=2, after="a").more
        assert not store.range("").more

    def test_after_may_be_any_text(self, store: Store) -> None:
        store.transact([Put("b", b""), Put("c", b"")])
        assert keys(store, after="a") == ["b", "c"]
        assert keys(store, "b", after="a") == ["b"]
        assert keys(store, after="bb") == ["c"]
        assert keys(store, "b", after="c") == []


class TestTransaction:
    def test_all_writes_share_one_revision(self, store: Store) -> None:
        before = put(store, "old")
        result = store.transact([Put("a", b"1"), Delete("old"), Put("b", b"2")])
        assert result.revision == before + 1
        assert [entry.mod_revision for entry in store.range("").entries] == [result.revision] * 2

    @pytest.mark.parametrize("field", [Field.CREATE_REVISION, Field.MOD_REVISION, Field.VERSION])
    def test_comparing_a_number(self, store: Store, field: Field) -> None:
        put(store, "a")
        put(store, "a")
        right = getattr(store.get("a"), field.value)
        assert not store.transact([Put("x", b"")], [Compare("a", field, right + 1)]).applied
        assert not store.transact([Put("x", b"")], [Compare("a", field, 0)]).applied
        assert store.get("x") is None
        assert store.transact([Put("x", b"")], [Compare("a", field, right)]).applied
        assert store.get("x") is not None

    @pytest.mark.parametrize("field", [Field.CREATE_REVISION, Field.MOD_REVISION, Field.VERSION])
    def test_a_missing_key_has_zero_in_each_number(self, store: Store, field: Field) -> None:
        put(store, "deleted")
        delete(store, "deleted")
        for key in ("deleted", "never"):
            assert store.transact([], [Compare(key, field, 0)]).applied
            assert not store.transact([], [Compare(key, field, 1)]).applied

    def test_comparing_a_value(self, store: Store) -> None:
        put(store, "a", b"1")
        put(store, "empty", b"")
        assert store.transact([], [Compare("a", Field.VALUE, b"1")]).applied
        assert not store.transact([], [Compare("a", Field.VALUE, b"2")]).applied
        assert store.transact([], [Compare("empty", Field.VALUE, b"")]).applied
        assert not store.transact([], [Compare("never", Field.VALUE, b"")]).applied

    def test_all_compares_must_hold_and_they_see_what_was_before_the_writes(self, store: Store) -> None:
        before = put(store, "a", b"1")
        true, false = Compare("a", Field.VALUE, b"1"), Compare("a", Field.VERSION, 7)
        result = store.transact([Put("a", b"2")], [true, false])
        assert (result.applied, result.revision) == (False, before)
        assert value_of(store, "a") == b"1"
        assert store.transact([Put("a", b"2")], [true]).applied

    def test_what_changes_nothing_makes_no_revision(self, store: Store) -> None:
        before = put(store, "a")
        for writes in ([], [Delete("missing")]):
            result = store.transact(writes)
            assert (result.applied, result.revision) == (True, before)

    def test_a_key_is_written_once(self, store: Store) -> None:
        before = revision_of(store)
        second: tuple[Put | Delete, ...] = (Put("a", b"2"), Delete("a"))
        for write in second:
            with pytest.raises(ValueError, match="twice"):
                store.transact([Put("a", b"1"), write])
        assert revision_of(store) == before

    def test_as_much_as_the_limits_allow(self, store: Store) -> None:
        writes = [Put(f"{number:04}", b"") for number in range(LIMITS.operations)]
        compares = [Compare(write.key, Field.VERSION, 0) for write in writes]
        assert store.transact(writes, compares).applied
        assert len(keys(store)) == LIMITS.operations

    def test_more_than_the_limits_changes_nothing(self, store: Store) -> None:
        before = revision_of(store)
        many = [Put(f"{number:04}", b"") for number in range(LIMITS.operations + 1)]
        too_much = [Put("a", bytes(LIMITS.bytes)), Put("b", b"")]
        compares = [Compare(write.key, Field.VERSION, 0) for write in many]
        for writes, comparing in ((many, ()), (too_much, ()), ([Put("a", b"")], compares)):
            with pytest.raises(StoreRefused):
                store.transact(writes, comparing)
        assert revision_of(store) == before
        assert keys(store) == []
        assert put(store, "a") == before + 1

    def test_of_many_at_once_one_wins(self, store: Store) -> None:
        """Compare-and-set from several threads: each step of the counter is taken exactly once."""
        put(store, "counter", b"0")
        steps, threads = 30, 4
        won: list[int] = []

        def count() -> None:
            while len(won) < steps:
                seen = entry_of(store, "counter")
                following = int(seen.value) + 1
                guard = Compare("counter", Field.MOD_REVISION, seen.mod_revision)
                if store.transact([Put("counter", b"%d" % following)], [guard]).applied:
                    won.append(following)

        workers = [threading.Thread(target=count) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(DEADLINE_S)
        assert sorted(won) == list(range(1, len(won) + 1))
        assert int(value_of(store, "counter")) == len(won) >= steps


class TestBadInput:
    @pytest.mark.parametrize("key", ["", "a\0b", "\ud800"])
    def test_keys(self, store: Store, key: str) -> None:
        before = revision_of(store)
        for call in (
            lambda: store.get(key),
            lambda: store.transact([Put(key, b"")]),
            lambda: store.transact([Delete(key)]),
            lambda: store.transact([], [Compare(key, Field.VERSION, 0)]),
        ):
            with pytest.raises(ValueError):
                call()
        assert revision_of(store) == before

    def test_values_and_expectations(self, store: Store) -> None:
        for writes, compares in (
            ([Put("a", "text")], []),  # type: ignore[arg-type]
            ([Put(b"a", b"")], []),  # type: ignore[arg-type]
            ([], [Compare("a", Field.VALUE, 1)]),
            ([], [Compare("a", Field.VERSION, b"1")]),
        ):
            with pytest.raises(TypeError):
                store.transact(writes, compares)

    def test_numbers(self, store: Store) -> None:
        for call in (
            lambda: store.get("a", revision=0),
            lambda: store.range("", revision=-1),
            lambda: store.range("", limit=0),
            lambda: store.compact(0),
            lambda: store.watch("", after_revision=-1),
            lambda: store.lease(0),
        ):
            with pytest.raises(ValueError):
                call()


class TestWatch:
    def test_history_and_what_comes_after_it_in_order(self, store: Store) -> None:
        start = revision_of(store)
        one = put(store, "w/a", b"1")
        put(store, "other", b"")
        watch = store.watch("w/", after_revision=start)
        two = store.transact([Put("w/b", b"2"), Put("other", b"2"), Delete("w/a")]).revision
        assert watch.next(DEADLINE_S) == (Change("w/a", Entry("w/a", b"1", one, one, 1), one),)
        assert watch.next(DEADLINE_S) == (
            Change("w/b", Entry("w/b", b"2", two, two, 1), two),
            Change("w/a", None, two),
        )
        assert watch.next(0.01) == ()
        three = put(store, "w/b", b"3")
        assert watch.next(DEADLINE_S) == (Change("w/b", Entry("w/b", b"3", two, three, 2), three),)
        watch.close()

    def test_it_wakes_up_for_a_change_from_another_thread(self, store: Store) -> None:
        watch = store.watch("w/", after_revision=revision_of(store))
        seen: list[tuple[Change, ...]] = []
        waiting = threading.Thread(target=lambda: seen.append(watch.next(DEADLINE_S)))
        waiting.start()
        put(store, "other")
        revision = put(store, "w/a", b"1")
        waiting.join(DEADLINE_S)
        assert [change.revision for change in seen[0]] == [revision]

    def test_waking_ends_the_wait_and_loses_nothing(self, store: Store) -> None:
        watch = store.watch("w/", after_revision=revision_of(store))
        seen: list[tuple[Change, ...]] = []
        waiting = threading.Thread(target=lambda: seen.append(watch.next(2 * DEADLINE_S)))
        waiting.start()
        watch.wake()
        waiting.join(DEADLINE_S)
        assert seen == [()]
        revision = put(store, "w/a", b"1")
        assert [change.revision for change in watch.next(DEADLINE_S)] == [revision]
        watch.wake()
        began = time.monotonic()
        assert watch.next(2 * DEADLINE_S) == ()
        assert time.monotonic() - began < DEADLINE_S

    def test_it_may_begin_ahead(self, store: Store) -> None:
        now = revision_of(store)
        watch = store.watch("", after_revision=now + 1)
        put(store, "missed")
        seen = put(store, "seen")
        assert [(change.key, change.revision) for change in watch.next(DEADLINE_S)] == [("seen", seen)]

    def test_each_watch_has_its_own_place(self, store: Store) -> None:
        start = revision_of(store)
        first, second = store.watch("a", after_revision=start), store.watch("", after_revision=start)
        put(store, "b")
        put(store, "a")
        assert [change.key for change in first.next(DEADLINE_S)] == ["a"]
        assert [change.key for change in second.next(DEADLINE_S)] == ["b"]
        assert [change.key for change in second.next(DEADLINE_S)] == ["a"]
        first.close()
        put(store, "a")
        assert [change.key for change in second.next(DEADLINE_S)] == ["a"]

    @pytest.mark.parametrize("what", ["watch", "store"])
    def test_closing_ends_the_wait(self, store: Store, what: str) -> None:
        watch = store.watch("", after_revision=revision_of(store))
        seen: list[object] = []

        def wait() -> None:
            started.set()
            try:
                seen.append(watch.next(60))
            except StoreError:  # the close came before the call
                seen.append(())

        started = threading.Event()
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert started.wait(DEADLINE_S)
        (watch if what == "watch" else store).close()
        waiting.join(DEADLINE_S)
        assert seen == [()]
        with pytest.raises(StoreError):
            watch.next(0)

    def test_a_watch_sees_every_write_of_many_threads(self, store: Store) -> None:
        start = revision_of(store)
        watch = store.watch("w/", after_revision=start)
        writers = [
            threading.Thread(target=lambda name=name: [put(store, f"w/{name}", b"%d" % n) for n in range(20)])
            for name in "abc"
        ]
        for writer in writers:
            writer.start()
        seen = [change for _ in range(60) for change in watch.next(DEADLINE_S)]
        for writer in writers:
            writer.join(DEADLINE_S)
        assert [change.revision for change in seen] == list(range(start + 1, start + 61))
        for name in "abc":
            assert [int(value) for value in values_put(c for c in seen if c.key == f"w/{name}")] == list(range(20))


class TestCompaction:
    def test_what_is_before_is_gone_and_the_rest_stays(self, store: Store) -> None:
        first = put(store, "a", b"1")
        put(store, "b", b"1")
        second = put(store, "a", b"2")
        third = delete(store, "b")
        present = store.range("").entries
        store.compact(second)
        with pytest.raises(Compacted) as gone:
            store.get("a", revision=first)
        assert (gone.value.revision, gone.value.oldest) == (first, second)
        with pytest.raises(Compacted):
            store.range("", revision=second - 1)
        assert keys(store, revision=second) == ["a", "b"]
        assert value_of(store, "a", revision=second) == b"2"
        store.compact(third)
        assert keys(store, revision=third) == ["a"]
        assert store.range("").entries == present
        assert put(store, "b") == third + 1
        assert entry_of(store, "b").version == 1

    def test_going_back_is_refused(self, store: Store) -> None:
        put(store, "a")
        now = put(store, "a")
        store.compact(now)
        for revision in (now, now - 1):
            with pytest.raises(Compacted):
                store.compact(revision)

    def test_a_watch_of_what_is_gone(self, store: Store) -> None:
        start = revision_of(store)
        put(store, "a")
        put(store, "a")
        now = put(store, "a")
        store.compact(now)
        watch = store.watch("", after_revision=start)
        with pytest.raises(Compacted):
            watch.next(DEADLINE_S)

    def test_a_watch_from_the_oldest_revision_on(self, store: Store) -> None:
        put(store, "a")
        oldest = delete(store, "a")
        later = put(store, "b")
        store.compact(oldest)
        watch = store.watch("", after_revision=oldest)
        assert [(change.key, change.revision) for change in watch.next(DEADLINE_S)] == [("b", later)]

    def test_an_open_watch_that_has_missed_nothing_goes_on(self, store: Store) -> None:
        watch = store.watch("w/", after_revision=revision_of(store))
        put(store, "w/a")
        assert len(watch.next(DEADLINE_S)) == 1
        put(store, "other")
        store.compact(put(store, "other"))
        revision = put(store, "w/a")
        assert [change.revision for change in watch.next(DEADLINE_S)] == [revision]


class TestLease:
    def test_its_keys_vanish_with_it_in_one_revision(self, backend: Backend) -> None:
        store = backend.store
        lease = store.lease(5)
        assert lease.id != 0
        before = store.transact([Put("x/a", b"", lease.id), Put("x/b", b"", lease.id), Put("x/c", b"")]).revision
        assert entry_of(store, "x/a").lease == lease.id
        watch = store.watch("x/", after_revision=before)
        backend.pass_time(6)
        assert eventually(lambda: keys(store, "x/") == ["x/c"])
        assert watch.next(DEADLINE_S) == (Change("x/a", None, before + 1), Change("x/b", None, before + 1))
        assert not lease.keep_alive()

    def test_keeping_it_alive_extends_it_by_its_full_time(self, backend: Backend) -> None:
        store = backend.store
        lease = store.lease(5)
        put(store, "a", lease=lease.id)
        for _ in range(3):
            backend.pass_time(3)
            assert lease.keep_alive()
        assert store.get("a") is not None
        backend.pass_time(6)
        assert eventually(lambda: store.get("a") is None)
        assert eventually(lambda: not lease.keep_alive())

    def test_revoking(self, store: Store) -> None:
        lease, other = store.lease(60), store.lease(60)
        put(store, "a", lease=lease.id)
        before = put(store, "b", lease=other.id)
        lease.revoke()
        assert keys(store) == ["b"]
        assert revision_of(store) == before + 1
        assert not lease.keep_alive()
        assert other.keep_alive()
        lease.revoke()
        assert revision_of(store) == before + 1

    def test_a_key_belongs_to_the_lease_of_its_last_put(self, store: Store) -> None:
        first, second = store.lease(60), store.lease(60)
        store.transact([Put(key, b"", first.id) for key in ("freed", "moved", "deleted", "held")])
        store.transact([Put("freed", b""), Put("moved", b"", second.id), Delete("deleted")])
        put(store, "deleted")
        first.revoke()
        assert keys(store) == ["deleted", "freed", "moved"]
        second.revoke()
        assert keys(store) == ["deleted", "freed"]

    def test_without_keys_its_end_makes_no_revision(self, backend: Backend) -> None:
        before = revision_of(backend.store)
        lease = backend.store.lease(5)
        backend.pass_time(6)
        assert eventually(lambda: not lease.keep_alive())
        assert revision_of(backend.store) == before

    def test_a_put_with_an_ended_lease_is_refused_unless_the_compares_fail(self, store: Store) -> None:
        lease = store.lease(60)
        lease.revoke()
        before = revision_of(store)
        with pytest.raises(StoreRefused):
            store.transact([Put("b", b""), Put("a", b"", lease.id)])
        assert keys(store) == []
        assert revision_of(store) == before
        assert not store.transact([Put("a", b"", lease.id)], [Compare("a", Field.VERSION, 1)]).applied

    def test_its_past_stays_readable(self, store: Store) -> None:
        lease = store.lease(60)
        held = put(store, "a", b"1", lease.id)
        lease.revoke()
        assert store.get("a", revision=held) == Entry("a", b"1", held, held, 1, lease.id)


def test_a_closed_store_says_so(store: Store) -> None:
    lease = store.lease(60)
    store.close()
    store.close()
    for call in (
        lambda: store.get("a"),
        lambda: store.range(""),
        lambda: store.transact([Put("a", b"")]),
        lambda: store.watch("", after_revision=1),
        lambda: store.lease(5),
        lambda: store.compact(1),
        lease.keep_alive,
        lease.revoke,
    ):
        with pytest.raises(StoreError, match="closed"):
            call()

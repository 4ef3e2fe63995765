"""The etcd store while members are killed, frozen and started again: three real ones."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import attrs
import pytest
from etcd_members import EtcdCluster, EtcdFactory, EtcdMember
from running import wait_until
from stored import value_of, values_put

from orlop.store.etcd import EtcdStore
from orlop.store.etcd_address import StoreAccess, parse_address
from orlop.store.interface import (
    Change,
    Compacted,
    Compare,
    Field,
    OutcomeUnknown,
    Put,
    StoreError,
    StoreRefused,
    Watch,
)

DEADLINE_S = 60.0
TIMEOUT_S = 3.0
#: What a call may take: its search for a member, an attempt of its own, and a busy machine.
BOUND_S = 2 * TIMEOUT_S + 4

numbers = itertools.count()


@pytest.fixture(scope="module")
def trio(etcds: EtcdFactory) -> EtcdCluster:
    return etcds.cluster(3)


@pytest.fixture
def healthy(trio: EtcdCluster) -> Iterator[EtcdCluster]:
    """Three members that run, before and after."""
    yield trio
    trio.heal()


@pytest.fixture
def open_one(healthy: EtcdCluster) -> Iterator[Callable[..., EtcdStore]]:
    """Opens stores of the same keys, at all members or at those that are named."""
    prefix = f"faults-{next(numbers)}"
    stores: list[EtcdStore] = []

    def opened(*members: EtcdMember) -> EtcdStore:
        url = healthy.url(prefix, *members)
        stores.append(EtcdStore(parse_address(url, StoreAccess(timeout_s=TIMEOUT_S))))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


@pytest.fixture
def store(open_one: Callable[..., EtcdStore]) -> EtcdStore:
    return open_one()


def member_of(cluster: EtcdCluster, store: EtcdStore) -> EtcdMember:
    """Whom the store asks next."""
    return next(member for member in cluster.members if member.endpoint == store.members.current.name)


def persistently(store: EtcdStore, key: str, value: bytes) -> int:
    """The revision of one write, made until it is known to be applied; the value is nobody else's."""

    def done() -> int | None:
        try:
            return store.transact([Put(key, value)]).revision
        except StoreRefused:
            return None
        except OutcomeUnknown:
            entry = found(store, key)
            return entry.mod_revision if entry is not None and entry.value == value else None

    return wait_until(done, "a write to succeed", DEADLINE_S)


def found(store: EtcdStore, key: str):
    """What `get` says, as soon as it says anything."""

    def ask() -> list:
        try:
            return [store.get(key)]
        except StoreError:
            return []

    return wait_until(ask, "a read to succeed", DEADLINE_S)[0]


def drain(watch: Watch, until_revision: int) -> list[Change]:
    """All changes up to that of the revision."""
    seen: list[Change] = []
    deadline = time.monotonic() + DEADLINE_S
    while (not seen or seen[-1].revision < until_revision) and time.monotonic() < deadline:
        try:
            seen += watch.next(1)
        except Compacted:
            raise
        except StoreError:
            continue
    return seen


class Writers:
    """Threads that count up keys of their own by compare-and-set, and remember what they were told."""

    def __init__(self, stores: list[EtcdStore]) -> None:
        self.acknowledged: dict[str, list[int]] = {}
        self.unknown = 0
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(store, f"w/{number}")) for number, store in enumerate(stores)
        ]
        for thread in self._threads:
            thread.start()

    def _guarded(self, store: EtcdStore, key: str) -> None:
        try:
            self._count(store, key)
        except BaseException as error:
            self.errors.append(error)

    def _count(self, store: EtcdStore, key: str) -> None:
        acknowledged = self.acknowledged[key] = []
        entry = found(store, key)
        while not self._stop.is_set():
            value = int(entry.value) + 1 if entry else 0
            guard = Compare(key, Field.MOD_REVISION, entry.mod_revision if entry else 0)
            try:
                result = store.transact([Put(key, b"%d" % value)], [guard])
            except StoreRefused:
                continue
            except OutcomeUnknown:
                self.unknown += 1
                # What is not there now may still arrive: a write that is surely later settles it.
                persistently(store, f"settled/{key}", b"%d" % value)
                before, entry = entry, found(store, key)
                if entry == before:
                    continue
                assert int(entry.value) == value
            else:
                assert result.applied, "nobody else writes this key"
                entry = found(store, key)
            acknowledged.append(value)

    @property
    def count(self) -> int:
        return sum(map(len, self.acknowledged.values()))

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE_S)
        assert not self.errors, self.errors

    def wait_for_more(self, steps: int = 30) -> None:
        count = self.count
        wait_until(lambda: self.errors or self.count >= count + steps, "more writes", DEADLINE_S)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_under_the_hands_of_writers_and_watchers(
    healthy: EtcdCluster, open_one: Callable[..., EtcdStore], how: str
) -> None:
    """First etcd's leader goes, then, when it is back, the member that each is on; nothing is lost or doubled."""
    watchers = [open_one() for _ in range(2)]
    start = watchers[0].range("").revision
    watches = [one.watch("w/", after_revision=start) for one in watchers]
    stores = [open_one() for _ in range(3)]
    writers = Writers(stores)
    try:
        writers.wait_for_more()
        for victim in (healthy.leader(), member_of(healthy, stores[0]), member_of(healthy, watchers[0])):
            victim.kill() if how == "kill" else victim.freeze()
            writers.wait_for_more()
            healthy.heal()
            writers.wait_for_more()
    finally:
        writers.stop()
    end = persistently(stores[0], "w/end", b"")
    for watch in watches:
        changes = drain(watch, end)
        revisions = [change.revision for change in changes]
        assert revisions == sorted(set(revisions))
        assert changes[-1].key == "w/end"
        for key, acknowledged in writers.acknowledged.items():
            values = [int(value) for value in values_put(change for change in changes if change.key == key)]
            assert values == list(range(len(values))) == acknowledged
    for key, acknowledged in writers.acknowledged.items():
        assert int(value_of(stores[0], key)) == acknowledged[-1]


def test_a_killed_follower_costs_no_write_that_was_not_under_way(
    healthy: EtcdCluster, open_one: Callable[..., EtcdStore]
) -> None:
    """etcd's leader stays: what is under way to a leader that dies is in doubt."""
    leader = healthy.leader()
    store = open_one(*(member for member in healthy.members if member is not leader))
    revision = store.transact([Put("a", b"0")]).revision
    watch = store.watch("", after_revision=revision)
    for number in range(1, 4):
        wait_until(lambda: watch.established, "the watch to be served", DEADLINE_S)
        victim = member_of(healthy, store)
        victim.kill()
        wait_until(lambda victim=victim: member_of(healthy, store) is not victim, "the loss to be noticed", DEADLINE_S)
        revision = store.transact([Put("a", b"%d" % number)]).revision
        assert values_put(drain(watch, revision)) == [b"%d" % number]
        healthy.heal()


def test_a_frozen_member_delays_reads_and_leaves_a_write_in_doubt(healthy: EtcdCluster, store: EtcdStore) -> None:
    before = store.transact([Put("a", b"1")]).revision
    watch = store.watch("", after_revision=before)
    lease = store.lease(60)
    wait_until(lambda: watch.established, "the watch to be served", DEADLINE_S)
    frozen = member_of(healthy, store)
    frozen.freeze()
    began = time.monotonic()
    with pytest.raises(OutcomeUnknown, match=frozen.endpoint):
        store.transact([Put("a", b"2")])
    assert time.monotonic() - began < BOUND_S
    assert lease.keep_alive()
    assert found(store, "a").value in (b"1", b"2")
    revision = persistently(store, "b", b"3")
    assert drain(watch, revision)[-1].revision == revision

    thawed = frozen
    thawed.thaw()
    final = persistently(store, "b", b"4")
    changes = drain(watch, final)
    assert [change.revision for change in changes] == sorted({change.revision for change in changes})


def test_an_idle_watch_leaves_a_frozen_member_by_itself(
    healthy: EtcdCluster, open_one: Callable[..., EtcdStore]
) -> None:
    """Nobody calls the store of the watch: only gRPC's pings can tell, and none is under way when it happens."""
    idle, writer = open_one(), open_one()
    revision = writer.transact([Put("a", b"1")]).revision
    watch = idle.watch("", after_revision=revision)
    wait_until(lambda: watch.established, "the watch to be served", DEADLINE_S)
    time.sleep(1)  # idle is what is tested: no condition tells that nothing is under way
    member_of(healthy, idle).freeze()
    revision = persistently(writer, "a", b"2")
    assert [change.revision for change in drain(watch, revision)] == [revision]


def test_without_a_quorum_and_back(healthy: EtcdCluster, open_one: Callable[..., EtcdStore], store: EtcdStore) -> None:
    before = store.transact([Put("a", b"1")]).revision
    watch = store.watch("", after_revision=before)
    lease = store.lease(60)
    left, *others = healthy.members
    for member in others:
        member.kill()

    for call in (
        lambda: store.get("a"),
        lambda: store.range(""),
        lambda: store.transact([], [Compare("a", Field.VERSION, 1)]),
        lambda: store.transact([Put("a", b"2")]),
        lambda: store.lease(5),
        lambda: store.compact(before),
        lease.keep_alive,
        lease.revoke,
    ):
        began = time.monotonic()
        with pytest.raises(StoreError):
            call()
        assert time.monotonic() - began < BOUND_S
    with pytest.raises(StoreError, match="has no leader"):
        store.get("a")
    with pytest.raises(StoreRefused, match="has no leader"):
        store.transact([Put("a", b"2")])
    with pytest.raises(StoreError, match="not been watched"):
        drain_until_error(watch)

    for stale in (store, open_one()):
        assert value_of(stale, "a", stale=True) == b"1"
        assert stale.range("", stale=True).revision >= before
    status = {one.endpoint: one for one in store.maintenance.status()}
    assert not status[left.endpoint].error
    assert all(status[member.endpoint].error for member in others)

    healthy.heal()
    after = persistently(store, "a", b"3")
    changes = drain(watch, after)
    values = values_put(changes)
    assert values[-1] == b"3"
    assert set(values) <= {b"2", b"3"}
    lease.revoke()
    assert not lease.keep_alive()


def drain_until_error(watch: Watch) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        watch.next(1)


def test_leases_outlive_etcds_leader(healthy: EtcdCluster, store: EtcdStore) -> None:
    lease = store.lease(30)
    store.transact([Put("held", b"", lease.id)])
    healthy.leader().kill()

    def kept() -> bool:
        try:
            return lease.keep_alive()
        except StoreError:
            return False

    wait_until(kept, "the lease to be kept alive", DEADLINE_S)
    assert found(store, "held") is not None


def test_a_watch_that_begins_while_nobody_answers(healthy: EtcdCluster, store: EtcdStore) -> None:
    revision = store.transact([Put("a", b"1")]).revision
    for member in healthy.members:
        member.kill()
    watch = store.watch("", after_revision=revision)
    assert watch.next(0) == ()
    healthy.heal()
    revision = persistently(store, "a", b"2")
    assert [change.revision for change in drain(watch, revision)] == [revision]


def test_a_watch_that_was_cut_off_during_a_compaction_is_told(
    healthy: EtcdCluster, open_one: Callable[..., EtcdStore]
) -> None:
    """It knows one member only, which is down while others write and compact; what it has missed is gone."""
    alone = healthy.members[0]
    watching, writing = open_one(alone), open_one()
    before = writing.transact([Put("a", b"1")]).revision
    watch = watching.watch("", after_revision=before)
    wait_until(lambda: watch.established, "the watch to be served", DEADLINE_S)
    alone.kill()
    persistently(writing, "a", b"2")
    last = persistently(writing, "a", b"3")
    wait_until(lambda: compacted(writing, last), "the compaction", DEADLINE_S)
    alone.start()
    with pytest.raises(Compacted) as gone:
        drain(watch, last)
    assert gone.value.oldest == last
    listed = watching.range("")
    watch.close()
    watch = watching.watch("", after_revision=listed.revision)
    revision = persistently(writing, "a", b"4")
    assert [change.revision for change in drain(watch, revision)] == [revision]


def compacted(store: EtcdStore, revision: int) -> bool:
    try:
        store.compact(revision)
    except Compacted:
        return True
    except StoreError:
        return False
    return True


def test_defragmenting_goes_member_by_member_and_the_leader_is_last(healthy: EtcdCluster, store: EtcdStore) -> None:
    leader = healthy.leader()
    done = list(store.maintenance.defragment())
    assert {status.endpoint for status in done} == {member.endpoint for member in healthy.members}
    assert not any(status.error for status in done)
    assert done[-1].endpoint == leader.endpoint
    assert {member.name for member in store.maintenance.members()} == {member.name for member in healthy.members}


def test_all_members_wrong_is_said_with_all_of_them(trio: EtcdCluster) -> None:
    url = "etcd://127.0.0.1:1,127.0.0.1:2/x"
    store = EtcdStore(parse_address(url, attrs.evolve(StoreAccess(), timeout_s=0.5)))
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1: .*refused.*127\.0\.0\.1:2: .*refused|:2: .*:1: "):
        store.get("a")
    with pytest.raises(StoreRefused):
        store.transact([Put("a", b"")])
    store.close()

"""Every backend gives the same answers to the same history, errors included.

Revisions are compared relative to where each store began, leases by the order in which they were granted.

etcd runs for real, beside two things that a test cannot have of it: time that passes when the test says so (its leases
are long, and revoked when their time is over on the test's clock), and changes that are watched the moment they are
made (what must come is waited for).
"""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from etcd_members import EtcdCluster
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from running import wait_until

from orlop.store.etcd import EtcdStore
from orlop.store.etcd_address import StoreAccess, parse_address
from orlop.store.interface import (
    Change,
    Compacted,
    Compare,
    Delete,
    Entry,
    Field,
    Lease,
    Limits,
    Put,
    RangeResult,
    Store,
    StoreError,
    StoreRefused,
    TransactionResult,
    Watch,
)
from orlop.store.leases import HeldLease, LeaseTable
from orlop.store.memory import MemoryStore
from orlop.store.requests import check_ttl
from orlop.store.sqlite import SqliteStore

LIMITS = Limits(operations=4, bytes=40)
DEADLINE_S = 20.0
LONG_LEASE_S = 3600
MOST_WATCHES = 4
MOST_LEASES = 5

Clock = Callable[[], float]

#: Opens an empty store in a folder of its own, with the given clock for its leases.
LOCAL_BACKENDS: tuple[Callable[[Path, Clock], Store], ...] = (
    lambda folder, clock: MemoryStore(limits=LIMITS, clock=clock),
    lambda folder, clock: SqliteStore(folder / "store.db", limits=LIMITS, clock=clock),
)

KEYS = ("a", "a/1", "a/2", "b\U0010ffff", "b\U0010ffffc", "\ud7ff")
PREFIXES = ("", "a", "a/", "b\U0010ffff", "\ud7ff", "c")
AGES_CHECKED = (1, 2, 3, 6)


class EtcdOnTestTime(EtcdStore):
    """See the module. A watch in it is known to be served before anything is compacted."""

    def __init__(self, etcd: EtcdCluster, prefix: str, clock: Clock) -> None:
        super().__init__(parse_address(etcd.url(prefix), StoreAccess()), limits=LIMITS)
        self._etcd = etcd
        self._terms = LeaseTable(clock, lambda: super(EtcdOnTestTime, self).lease(LONG_LEASE_S).id)

    def end_due_leases(self) -> None:
        for lease in self._terms.due():
            self.revoke_now(lease)

    def revoke_now(self, lease: int) -> None:
        self._terms.drop(lease)
        super().revoke_lease(lease)

    def get(self, key: str, **where: Any) -> Entry | None:
        self.end_due_leases()
        return super().get(key, **where)

    def range(self, prefix: str, **where: Any) -> RangeResult:
        self.end_due_leases()
        return super().range(prefix, **where)

    def transact(self, writes: Sequence[Put | Delete], compares: Sequence[Compare] = ()) -> TransactionResult:
        self.end_due_leases()
        return super().transact(writes, compares)

    def lease(self, ttl_s: int) -> HeldLease:
        check_ttl(ttl_s)
        return HeldLease(self._terms.grant(ttl_s), self)

    def keep_lease_alive(self, lease: int) -> bool:
        self.end_due_leases()
        return self._terms.extend(lease) and super().keep_lease_alive(lease)

    def revoke_lease(self, lease: int) -> None:
        self.end_due_leases()
        self.revoke_now(lease)

    def compact(self, revision: int) -> None:
        self.end_due_leases()
        wait_until(self.watches_are_served, "all watches to be served", DEADLINE_S)
        super().compact(revision)

    def watches_are_served(self) -> bool:
        opened = all(watch.established or watch.failed for watch in self._watches)
        return opened and self._etcd.members[0].metric("etcd_debugging_mvcc_slow_watcher_total") == 0


@attrs.define
class Contestant:
    """One backend, its handles by the order in which they were made, and the words in which answers are compared."""

    store: Store
    base: int
    witness: Watch
    watches: list[Watch] = attrs.field(factory=list)
    leases: list[Lease] = attrs.field(factory=list)

    def next(self, watch: Watch, expected: Any) -> Any:
        """expected: the first contestant's answer, for one that may bring it a little later."""
        patience_s = 0.0
        if isinstance(self.store, EtcdOnTestTime):
            self.store.end_due_leases()
            patience_s = DEADLINE_S if expected else 0.0
        try:
            return watch.next(patience_s)
        except Compacted as gone:  # from where on is each backend's own affair
            return ("Compacted", gone.oldest - self.base)

    def plain(self, answer: Any) -> Any:
        match answer:
            case Entry():
                lease = [lease.id for lease in self.leases].index(answer.lease) if answer.lease else None
                created, modified = answer.create_revision - self.base, answer.mod_revision - self.base
                return (answer.key, answer.value, created, modified, answer.version, lease)
            case RangeResult():
                return (*map(self.plain, answer.entries), answer.revision - self.base, answer.more)
            case TransactionResult():
                return (answer.applied, answer.revision - self.base)
            case Change():
                return (answer.key, self.plain(answer.entry), answer.revision - self.base)
            case Compacted():
                return ("Compacted", answer.revision - self.base, answer.oldest - self.base)
            case StoreRefused():
                return "StoreRefused"
            case StoreError() | ValueError():
                return type(answer).__name__
            case tuple():
                return tuple(map(self.plain, answer))
        return answer


keys = st.sampled_from(KEYS)
prefixes = st.sampled_from(PREFIXES)
values = st.sampled_from([b"", b"1", b"2", b"\0", bytes(35)])
#: None for now, else how far back; -1 lies ahead.
ages = st.none() | st.integers(-1, 12)
kinds = st.sampled_from(["right"] * 6 + ["missing", "wrong"])
compares = st.lists(st.tuples(keys, st.sampled_from(Field), kinds), max_size=5)
#: (key, value, lease): no value is a deletion; the lease is one of those granted, counted from the last.
write = st.tuples(keys, st.none() | values, st.none() | st.integers(0, MOST_LEASES))
writes = st.lists(write, min_size=1, max_size=4, unique_by=lambda drawn: drawn[0]) | st.lists(write, max_size=5)


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.first: Any = None
        self.folder = Path(tempfile.mkdtemp(prefix="orlop-differential-"))
        self.contestants: list[Contestant] = []

    def stores(self) -> Iterator[Store]:
        for number, opened in enumerate(LOCAL_BACKENDS):
            folder = self.folder / str(number)
            folder.mkdir()
            yield opened(folder, lambda: self.now)

    @initialize()
    def open(self) -> None:
        for store in self.stores():
            base = store.range("").revision
            self.contestants.append(Contestant(store, base, store.watch("", after_revision=base)))

    def teardown(self) -> None:
        for contestant in self.contestants:
            for lease in contestant.leases:
                lease.revoke()
            contestant.store.close()
        shutil.rmtree(self.folder)

    def same(self, ask: Callable[[Contestant], Any]) -> Any:
        """The answer of all; fails if they differ."""
        answers = []
        for contestant in self.contestants:
            try:
                answer = ask(contestant)
            except (StoreError, ValueError) as error:
                answer = error
            answers.append(contestant.plain(answer))
            self.first = answers[0]
        assert all(answer == answers[0] for answer in answers), answers
        return answers[0]

    def same_next(self, watch: Callable[[Contestant], Watch]) -> Any:
        self.first = None
        return self.same(lambda one: one.next(watch(one), self.first))

    def same_range(
        self, prefix: str = "", age: int | None = None, after: str | None = None, limit: int | None = None
    ) -> Any:
        return self.same(
            lambda one: one.store.range(prefix, revision=self.at_or_now(one, age), after=after, limit=limit)
        )

    def at(self, contestant: Contestant, age: int) -> int:
        """A revision of now or before, not from before the history began: what is there differs."""
        return max(contestant.base, contestant.store.range("", limit=1).revision - age)

    def at_or_now(self, contestant: Contestant, age: int | None) -> int | None:
        return None if age is None else self.at(contestant, age)

    @rule(drawn=writes, comparing=compares)
    def transact(
        self, drawn: list[tuple[str, bytes | None, int | None]], comparing: list[tuple[str, Field, str]]
    ) -> None:
        self.same(
            lambda one: one.store.transact(
                [self.write(one, *write) for write in drawn], [self.compare(one, *compare) for compare in comparing]
            )
        )

    def write(self, one: Contestant, key: str, value: bytes | None, lease: int | None) -> Put | Delete:
        if value is None:
            return Delete(key)
        held = one.leases[-1 - lease].id if lease is not None and lease < len(one.leases) else 0
        return Put(key, value, held)

    def compare(self, one: Contestant, key: str, field: Field, kind: str) -> Compare:
        entry = one.store.get(key)
        if field is Field.VALUE:
            value = entry.value if entry else b""
            return Compare(key, field, value + b"x" if kind == "wrong" else value)
        right: int = getattr(entry, field.value) if entry else 0
        return Compare(key, field, {"right": right, "missing": 0, "wrong": right + 1}[kind])

    @rule(key=keys, value=values)
    def put(self, key: str, value: bytes) -> None:
        self.same(lambda one: one.store.transact([Put(key, value)]))

    @rule(key=keys, age=ages)
    def get(self, key: str, age: int | None) -> None:
        self.same(lambda one: one.store.get(key, revision=self.at_or_now(one, age)))

    @rule(prefix=prefixes, age=ages, after=st.none() | keys, limit=st.none() | st.integers(0, 4))
    def range(self, prefix: str, age: int | None, after: str | None, limit: int | None) -> None:
        self.same_range(prefix, age, after, limit)

    @rule(age=st.integers(-1, 12))
    def compact(self, age: int) -> None:
        self.same(lambda one: one.store.compact(self.at(one, age)))

    @precondition(lambda self: self.contestants and len(self.contestants[0].watches) < MOST_WATCHES)
    @rule(prefix=prefixes, age=st.integers(-2, 12))
    def watch(self, prefix: str, age: int) -> None:
        self.same(lambda one: one.watches.append(one.store.watch(prefix, after_revision=self.at(one, age))))

    @precondition(lambda self: self.contestants and self.contestants[0].watches)
    @rule(index=st.integers(0, MOST_WATCHES - 1), close=st.sampled_from([False, False, False, True]))
    def next(self, index: int, close: bool) -> None:
        number = index % len(self.contestants[0].watches)
        self.same_next(lambda one: one.watches[number])
        if close:
            self.same(lambda one: one.watches[number].close())
            self.same(lambda one: one.watches[number].next(0))
            for one in self.contestants:
                one.watches.pop(number)

    @precondition(lambda self: self.contestants and len(self.contestants[0].leases) < MOST_LEASES)
    @rule(ttl_s=st.integers(0, 4))
    def lease(self, ttl_s: int) -> None:
        self.same(lambda one: one.leases.append(one.store.lease(ttl_s)))

    @rule(seconds=st.sampled_from([0.5, 1, 3]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.contestants and self.contestants[0].leases)
    @rule(index=st.integers(0, MOST_LEASES - 1), revoke=st.booleans())
    def keep_or_revoke(self, index: int, revoke: bool) -> None:
        number = index % len(self.contestants[0].leases)
        self.same(lambda one: one.leases[number].revoke() if revoke else one.leases[number].keep_alive())

    @invariant()
    def same_everything(self) -> None:
        if not self.contestants:
            return
        while self.same_next(lambda one: one.witness):
            pass
        present = self.same_range()
        for age in AGES_CHECKED:
            self.same_range(age=age)
        for key, *_ in present[:-2]:
            self.same_range(after=key, limit=1)


class HistoriesWithEtcd(Histories):
    etcd: EtcdCluster
    numbers = itertools.count()

    def stores(self) -> Iterator[Store]:
        yield from super().stores()
        prefix = f"history-{next(self.numbers)}"
        store = EtcdOnTestTime(self.etcd, prefix, lambda: self.now)
        # What an earlier history has compacted must not be the revision at which this one begins.
        store.transact([Put("a", b"")])
        store.transact([Delete("a")])
        yield store


SETTINGS = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


class TestHistories(Histories.TestCase):  # type: ignore[misc, valid-type]  # a class that is made at run time
    settings = SETTINGS


@pytest.fixture(scope="module")
def shared_etcd(etcd: EtcdCluster) -> None:
    HistoriesWithEtcd.etcd = etcd


@pytest.mark.usefixtures("shared_etcd")
class TestHistoriesWithEtcd(HistoriesWithEtcd.TestCase):  # type: ignore[misc, valid-type]  # likewise
    """Fewer: each call goes to another process and to its disk."""

    settings = settings(SETTINGS, max_examples=25)

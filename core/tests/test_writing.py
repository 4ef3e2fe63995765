"""The writer: what is released when, and what each answer of the store means, over a real store with small limits."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from terms import begin

from orlop.kernel import records
from orlop.kernel.events import AgentHello, Answer, FrameworkActions
from orlop.kernel.kernel import Kernel
from orlop.kernel.loading import encode
from orlop.kernel.state import State, StoredObject
from orlop.model.clock import Now
from orlop.model.messages import Hello
from orlop.model.nodes import NodeInfo
from orlop.model.resources import Resources
from orlop.server.loading import list_entries, state_of
from orlop.server.pipeline import Failure, Pipeline, Submission
from orlop.server.writing import Released, Transaction, Writer
from orlop.store.interface import Limits, Put
from orlop.store.memory import MemoryStore

NOW = Now(1, 1)
SMALL = Limits(operations=6, bytes=20_000)


class Leader:
    """One term over a store: the writer with its pipeline, and what came out of it."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.term = begin(store, utc_ms=1)
        self.pipeline = Pipeline(Kernel(), self.term.state, self.term.epoch, store.limits.operations - 1)
        self.writer = Writer(self.pipeline, self.term, store.limits, threading.Lock())
        self.told: list[tuple[str, Failure | None]] = []
        self.answers: list[str] = []
        self.effects_seen_at: list[int] = []

    def put(self, name: str, objects: int = 1) -> None:
        """A framework stores objects, in one step."""
        stored = StoredObject(document={"name": name}, version=1)
        puts = {("thing", f"{name}-{number}"): stored for number in range(objects)}
        event = FrameworkActions(framework="f", seen=0, puts=puts, replies={name: "done"})
        self.pipeline.decide([Submission(event, lambda failure: self.told.append((name, failure)))], NOW)

    def transaction(self) -> Transaction | None:
        """The next transaction; whatever is released on the way is taken."""
        while (work := self.writer.next()) is not None:
            if isinstance(work, Transaction):
                return work
            self.take(work)
        return None

    def take(self, released: Released | None) -> None:
        if released is not None:
            self.answers += [effect.token for effect in released.effects if isinstance(effect, Answer)]
            for submission, failure in released.told:
                submission.tell(failure)

    def write(self) -> bool:
        """One transaction; False when there is none, or its fence failed."""
        transaction = self.transaction()
        if transaction is None:
            return False
        result = self.store.transact(transaction.writes, transaction.compares)
        if result.applied:
            self.take(self.writer.applied(result.revision))
        return result.applied

    def write_all(self) -> None:
        while self.write():
            pass


def loaded(store: MemoryStore) -> State:
    state = state_of(list_entries(store)[0], {})
    assert state is not None
    return state


def names(state: State) -> set[str]:
    return set(state.framework("f").objects.get("thing") or ())


def test_answers_leave_after_the_commit() -> None:
    leader = Leader(MemoryStore())
    leader.put("a")
    assert leader.transaction() is not None
    assert leader.answers == []
    leader.write_all()
    assert (leader.answers, leader.told) == (["a"], [("a", None)])
    assert names(loaded(leader.store)) == {"a-0"}


def test_a_step_without_writes_is_answered_after_those_before_it() -> None:
    leader = Leader(MemoryStore())
    leader.put("a")
    transaction = leader.transaction()
    known = NodeInfo(id="n", name="n", address="", resources=Resources(cpus=1))
    leader.pipeline.decide([Submission(AgentHello(session="s", hello=Hello(node=known, cluster_id="other")))], NOW)
    assert leader.answers == []
    assert transaction is not None
    leader.write_all()
    assert leader.answers == ["a", "s"]


def test_a_change_larger_than_a_transaction_is_answered_once_it_is_certain() -> None:
    leader = Leader(MemoryStore(limits=SMALL))
    leader.put("big", objects=20)
    steps = 0
    while not leader.answers:
        assert leader.write()
        steps += 1
    assert names(loaded(leader.store)) == {f"big-{number}" for number in range(20)}, "before it is in its place"
    leader.write_all()
    assert steps == 1
    assert not leader.store.range(records.REDO).entries
    assert len(leader.store.range(records.OBJECTS).entries) == 20


def test_another_leader_fences_this_one_out() -> None:
    store = MemoryStore()
    old = Leader(store)
    old.put("a")
    old.write_all()
    new = Leader(store)
    old.put("b")
    assert not old.write(), "the leader's key is another one"
    new.put("c")
    new.write_all()
    assert names(loaded(store)) == {"a-0", "c-0"}
    assert old.answers == ["a"]


def test_a_writer_of_whatever_origin_is_noticed() -> None:
    leader = Leader(MemoryStore())
    entry = leader.store.get(records.META_KEY)
    assert entry is not None
    leader.store.transact([Put(records.META_KEY, entry.value)])
    leader.put("a")
    assert not leader.write()
    assert names(loaded(leader.store)) == set()


def test_what_is_refused_is_forgotten_with_all_that_came_after() -> None:
    leader = Leader(MemoryStore())
    leader.put("a")
    assert leader.transaction() is not None
    leader.put("b")
    leader.take(leader.writer.refused("no space"))
    assert leader.told == [("a", Failure("no space")), ("b", Failure("no space"))]
    assert leader.writer.refusal == "no space"
    leader.put("c")
    leader.write_all()
    assert (names(loaded(leader.store)), leader.writer.refusal) == ({"c-0"}, "")


def test_a_durable_change_that_finds_no_room_for_its_place_is_not_lost_and_holds_up_the_others() -> None:
    leader = Leader(MemoryStore(limits=SMALL))
    leader.put("big", objects=20)
    assert leader.write()
    assert leader.answers == ["big"]
    leader.put("later")
    assert leader.transaction() is not None
    leader.take(leader.writer.refused("no space"))
    assert leader.told == [("big", None), ("later", Failure("no space"))]
    leader.put("again")
    leader.write_all()
    assert names(loaded(leader.store)) == {f"big-{number}" for number in range(20)} | {"again-0"}
    assert not leader.store.range(records.REDO).entries


def test_one_document_that_no_transaction_holds_is_refused() -> None:
    leader = Leader(MemoryStore(limits=SMALL))
    stored = StoredObject(document={"text": "x" * 30_000}, version=1)
    event = FrameworkActions(framework="f", seen=0, puts={("thing", "huge"): stored})
    told: list[Failure | None] = []
    leader.pipeline.decide([Submission(event, told.append)], NOW)
    assert leader.transaction() is None
    assert told[0] is not None
    assert "objects/f/thing/huge has" in str(told[0])


def test_at_the_end_of_a_term_everybody_is_told_what_is_known() -> None:
    leader = Leader(MemoryStore())
    leader.put("a")
    transaction = leader.transaction()
    assert transaction is not None
    leader.put("b")
    for submission, failure in leader.pipeline.abandoned("the lease ended"):
        submission.tell(failure)
    assert dict(leader.told) == {"a": Failure("the lease ended", unknown=True), "b": Failure("the lease ended")}
    leader.take(leader.writer.applied(leader.store.transact(transaction.writes, transaction.compares).revision))
    assert leader.answers == [], "a late success releases nothing"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 6)), min_size=1, max_size=6), st.integers(5, 12))
def test_whatever_leader_dies_where_answered_changes_are_there_and_no_half_ones(
    lives: list[tuple[int, int]], operations: int
) -> None:
    store = MemoryStore(limits=Limits(operations=operations, bytes=20_000))
    answered: set[str] = set()
    asked: dict[str, int] = {}
    for number, (objects, transactions) in enumerate(lives):
        leader = Leader(store)
        for part in range(2):
            name = f"life{number}.{part}"
            asked[name] = objects
            leader.put(name, objects)
        for _ in range(transactions):
            leader.write()
        answered |= set(leader.answers)
    final = Leader(store)
    found = names(final.term.state)
    for name, objects in asked.items():
        present = sum(f"{name}-{number}" in found for number in range(objects))
        assert present in (0, objects), f"{name} is there by half"
        assert present == objects or name not in answered, f"{name} was answered and is lost"
    assert names(loaded(store)) == found
    assert encode(final.term.state.framework("f").objects["thing"][min(found)]) if found else True


@pytest.mark.parametrize(("name", "text"), [("a\0b", "plain"), ("plain", "\ud800")], ids=["a key", "a document"])
def test_what_has_no_stored_form_is_refused_and_the_term_goes_on(name: str, text: str) -> None:
    leader = Leader(MemoryStore())
    stored = StoredObject(document={"text": text}, version=1)
    event = FrameworkActions(framework="f", seen=0, puts={("thing", name): stored}, replies={"bad": "done"})
    leader.pipeline.decide([Submission(event, lambda failure: leader.told.append(("bad", failure)))], NOW)
    assert leader.transaction() is None
    ((who, failure),) = leader.told
    assert who == "bad"
    assert failure is not None
    assert not failure.unknown
    assert leader.writer.refusal == ""
    leader.put("good")
    leader.write_all()
    assert leader.told[1:] == [("good", None)]
    assert leader.answers == ["good"]
    assert set(loaded(leader.store).framework("f").objects["thing"]) == {"good-0"}

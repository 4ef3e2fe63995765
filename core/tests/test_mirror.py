"""A standby's copy as a state: of a small one at once, of a large one beside everything else, never newer than said."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator

import pytest
import waiting

from orlop.kernel import records
from orlop.kernel.events import AgentHello
from orlop.kernel.kernel import Kernel
from orlop.kernel.loading import encode
from orlop.kernel.state import State
from orlop.model.clock import Now
from orlop.model.messages import Epoch, Hello
from orlop.model.nodes import NodeInfo
from orlop.model.resources import Resources
from orlop.server import mirror as module
from orlop.server.mirror import MADE_KEPT_MS, Mirror
from orlop.store.interface import Entry, Put
from orlop.store.memory import MemoryStore

DEADLINE_S = 30

wait_until = functools.partial(waiting.wait_until, what="the mirror gets there", deadline_s=DEADLINE_S)


class Followed:
    """A store that a mirror follows, and a clock that a test moves."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.state = State(cluster_id="c")
        self.now_ms = 1_000_000
        self.mirror = Mirror(self.store, {}, lambda: self.now_ms, lambda: self.now_ms, lambda _: None)

    def add_node(self, name: str) -> int:
        """The revision."""
        info = NodeInfo(id=name, name=name, address=name, resources=Resources(cpus=1))
        event = AgentHello(session=name, hello=Hello(node=info))
        step = Kernel().step(self.state, [event], Now(1, 1), Epoch(1, 1))
        self.state = step.state
        puts = [Put(key, encode(document)) for key, document in step.puts.items() if not key.startswith(records.LOG)]
        return self.store.transact(puts).revision

    def follow(self) -> None:
        entry = self.store.get(records.META_KEY)
        assert entry is not None
        wait_until(lambda: self.mirror._documents.state_revision == entry.mod_revision)


@pytest.fixture
def followed() -> Iterator[Followed]:
    made = Followed()
    made.add_node("n1")
    made.mirror.start()
    try:
        wait_until(lambda: made.mirror.loaded)
        yield made
    finally:
        made.mirror.stop()
        made.store.close()


def nodes(state: State | None) -> set[str]:
    assert state is not None
    return set(state.node_order)


def test_of_a_small_copy_the_state_is_always_the_newest(followed: Followed) -> None:
    assert nodes(followed.mirror.state()) == {"n1"}
    assert followed.mirror.state() is followed.mirror.state(), "it is made once"
    followed.add_node("n2")
    followed.follow()
    assert nodes(followed.mirror.state()) == {"n1", "n2"}


def test_of_a_large_copy_it_is_made_beside_and_the_last_one_is_given(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DOCUMENTS_AT_ONCE", 0)
    assert followed.mirror.state() is None, "nobody waits for it"
    wait_until(followed.mirror.state)
    assert nodes(followed.mirror.state()) == {"n1"}
    first = followed.mirror.state()
    followed.add_node("n2")
    followed.follow()
    followed.now_ms += 500
    wait_until(lambda: followed.mirror._fresh_at_ms >= followed.now_ms - 500)
    gate, made = threading.Event(), module.state_of
    monkeypatch.setattr(module, "state_of", lambda *arguments: (gate.wait(DEADLINE_S), made(*arguments))[1])
    assert followed.mirror.state() is first
    assert followed.mirror.age_ms() >= 500, "it is as old as it says, however new the copy is"
    gate.set()
    wait_until(lambda: nodes(followed.mirror.state()) == {"n1", "n2"})


def test_a_state_that_was_made_long_ago_is_not_given(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    assert nodes(followed.mirror.state()) == {"n1"}
    monkeypatch.setattr(module, "DOCUMENTS_AT_ONCE", 0)
    followed.now_ms += MADE_KEPT_MS + 1
    assert nodes(followed.mirror.state()) == {"n1"}, "nothing has changed since"
    followed.add_node("n2")
    followed.follow()
    followed.now_ms += MADE_KEPT_MS + 1
    assert followed.mirror.state() is None
    wait_until(lambda: followed.mirror.state() is not None)
    assert nodes(followed.mirror.state()) == {"n1", "n2"}


def test_nothing_is_made_while_the_copy_is_handed_over(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DOCUMENTS_AT_ONCE", 0)
    monkeypatch.setattr(module, "state_of", lambda *_: pytest.fail("it is made"))
    given: list[set[str]] = []
    began, gate = threading.Event(), threading.Event()

    def take(entries: dict[str, Entry]) -> None:
        began.set()
        assert gate.wait(DEADLINE_S)
        given.append(set(entries))

    followed.mirror.hand_over(1, take)
    assert began.wait(DEADLINE_S)
    assert followed.mirror.state() is None
    gate.set()
    wait_until(lambda: given)
    assert given == [{records.META_KEY, f"{records.NODES}n1"}]
    followed.mirror.forget()
    wait_until(lambda: not followed.mirror._superseded)
    assert not followed.mirror._making


def test_what_is_being_made_is_what_a_term_begins_from(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DOCUMENTS_AT_ONCE", 0)
    gate, made = threading.Event(), module.state_of
    monkeypatch.setattr(module, "state_of", lambda *arguments: (gate.wait(DEADLINE_S), made(*arguments))[1])
    assert followed.mirror.state() is None
    revision = followed.store.transact([Put("leader", b"{}")]).revision  # no change of the state
    given: list[State | None] = []
    began = threading.Event()

    def take(_: object) -> None:
        began.set()
        given.append(followed.mirror.made())

    followed.mirror.hand_over(revision, take)
    assert began.wait(DEADLINE_S)
    assert not given, "it is waited for"
    gate.set()
    wait_until(lambda: given)
    assert nodes(given[0]) == {"n1"}


def test_what_was_made_of_an_older_copy_is_not(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    assert nodes(followed.mirror.state()) == {"n1"}
    revision = followed.add_node("n2")
    given: list[State | None] = []
    followed.mirror.hand_over(revision, lambda _: given.append(followed.mirror.made()))
    wait_until(lambda: given)
    assert given == [None]

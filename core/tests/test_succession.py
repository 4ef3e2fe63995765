"""Who leads since when, and why the last term ended: as events, like everything else that happens."""

from __future__ import annotations

import queue
from typing import Any

import attrs
import pytest
from terms import begin, parts_of
from waiting import eventually

from orlop.agent.agent import read_clock
from orlop.kernel.events import Logged, TermBegan, TermEnds
from orlop.kernel.kernel import TERM_BEGAN, TERM_ENDED, Kernel
from orlop.model.clock import Now
from orlop.model.log_entries import LogEntry
from orlop.server import leadership as module
from orlop.server.candidate import Candidate
from orlop.server.core import Core
from orlop.server.election import ElectionSettings
from orlop.server.leadership import Leadership
from orlop.server.loading import LeaderRecord, Term, last_logged
from orlop.server.pipeline import Failure
from orlop.server.succession import Succession
from orlop.store.interface import StoreRefused
from orlop.store.memory import MemoryStore

A, B = "http://10.0.0.1:5050", "http://10.0.0.2:5050"
OTHER = LeaderRecord(server="b", url=B, since_utc_ms=1)
OWN = LeaderRecord(server="a", url=A, since_utc_ms=1)
WAIT_S = 20


def said(kind: str, subject: str, **details: str) -> LogEntry:
    return LogEntry(type=kind, utc_ms=1, subject=subject, details=details)


def test_a_change_of_leader_is_an_event_of_the_log() -> None:
    term = begin(MemoryStore())
    event = TermBegan(server=A, since_utc_ms=86_400_000, reason="http://10.0.0.2:5050: this server stops")
    step = Kernel().step(term.state, [event], Now(86_400_005, 5), term.epoch)
    number = f"{term.epoch.generation}.{term.epoch.revision}"
    details = {"term": number, "since": "1970-01-02T00:00:00.000Z", "reason": event.reason}
    entry = LogEntry(type=TERM_BEGAN, utc_ms=86_400_005, subject=A, details=details)
    assert Logged(version=step.state.version, entries=(entry,)) in step.effects
    assert step.puts, "it is stored"
    ended = Kernel().step(step.state, [TermEnds(server=A, reason="r")], Now(86_400_006, 6), term.epoch)
    [logged] = [effect for effect in ended.effects if isinstance(effect, Logged)]
    assert [(one.type, one.subject, one.details) for one in logged.entries] == [
        (TERM_ENDED, A, {"term": number, "reason": "r"})
    ]


def test_what_a_leader_has_said_of_its_end_comes_first() -> None:
    succession = Succession("a")
    succession.seen(OTHER)
    told = [said(TERM_BEGAN, B), said(TERM_ENDED, B, reason="this server stops"), said("node.ready", "n")]
    assert succession.why(told) == f"{B}: this server stops"


def test_of_one_that_said_nothing_its_name_is_known() -> None:
    assert Succession("a").why([]) == "the last leader: it led no more, and has not said why"
    told = [said(TERM_ENDED, A, reason="this server stops"), said(TERM_BEGAN, B)]
    assert Succession("a").why(told) == f"{B}: it led no more, and has not said why"
    succession = Succession("a")
    succession.seen(OTHER)
    succession.seen(None)
    assert succession.why(told) == f"{B}: it led no more, and has not said why"


def test_a_server_knows_why_its_own_term_ended_until_another_one_leads() -> None:
    succession = Succession("a")
    succession.led_until(OWN, "its lease has ended")
    succession.seen(OWN)
    assert succession.why([said(TERM_BEGAN, A)]) == f"{A}: its lease has ended"
    succession.seen(OTHER)
    assert succession.why([said(TERM_BEGAN, A)]) == f"{B}: it led no more, and has not said why"


class Standing:
    """A server that takes part in the election, without what it would serve."""

    def __init__(self, store: MemoryStore, name: str, url: str) -> None:
        self.terms: queue.SimpleQueue[Term] = queue.SimpleQueue()
        self.candidate = Candidate(
            store=store,
            classes={},
            settings=ElectionSettings.of_lease(3),
            record=LeaderRecord(server=name, url=url, since_utc_ms=1),
            clock=lambda: read_clock().monotonic_ms,
            utc_ms=lambda: read_clock().utc_ms,
            begin=self.terms.put,
            end=lambda _: None,
            fatal=lambda error: pytest.fail(str(error)),
        )
        self.candidate.start()

    def term(self) -> Term:
        return self.terms.get(timeout=WAIT_S)


def write(store: MemoryStore, term: Term, event: TermBegan | TermEnds) -> None:
    durable: queue.SimpleQueue[Failure | None] = queue.SimpleQueue()
    core = Core(Kernel(), store, term, read_clock, lambda _: None, lambda error: pytest.fail(str(error)))
    core.start()
    core.submit(event, durable.put)
    assert durable.get(timeout=WAIT_S) is None
    core.stop()


def test_the_next_server_knows_whose_term_ended_and_why() -> None:
    store = MemoryStore()
    first = Standing(store, "a", A)
    term = first.term()
    assert term.after == "", "there was none"
    write(store, term, TermBegan(server=A, since_utc_ms=1))
    first.candidate.give_up("the store's state is not known")
    term = first.term()
    assert term.after == f"{A}: the store's state is not known"
    second = Standing(store, "b", B)
    first.candidate.stop()
    term = second.term()
    assert term.after == f"{A}: it led no more, and has not said why"
    write(store, term, TermEnds(server=B, reason="this server stops"))
    second.candidate.stop()
    third = Standing(store, "c", A)
    assert third.term().after == f"{B}: this server stops"
    third.candidate.stop()


class Refusing(MemoryStore):
    """Full, as long as it is told so."""

    full = False

    def transact(self, *arguments: Any) -> Any:
        if self.full:
            raise StoreRefused("no room")
        return super().transact(*arguments)


async def test_a_term_tells_its_beginning_as_soon_as_the_store_takes_it_and_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TICK_AGAIN_MS", 10)
    store = Refusing()
    term = attrs.evolve(begin(store), after="why")
    store.full = True
    leadership = lead(store, term)
    await eventually(lambda: leadership.read_only_reason() != "", "the store has refused it")
    store.full = False

    async def told() -> list[LogEntry]:
        version = leadership.state().version
        return [one for *_, one in (await leadership.log.entries(after=None, limit=9, wanted=bool, version=version))[0]]

    await eventually(lambda: leadership.state().version > term.state.version, "it has taken it")
    assert [(one.type, one.subject, one.details["reason"]) for one in await told()] == [(TERM_BEGAN, A, "why")]
    await leadership.stop("this server stops")
    last = last_logged(store, leadership.state().version)
    assert [(one.type, one.subject, one.details.get("reason")) for one in last] == [
        (TERM_BEGAN, A, "why"),
        (TERM_ENDED, A, "this server stops"),
    ]


def lead(store: MemoryStore, term: Term) -> Leadership:
    made = Leadership(term, parts_of(store, term, A), lambda error: pytest.fail(str(error)), lambda: True)
    made.start()
    return made

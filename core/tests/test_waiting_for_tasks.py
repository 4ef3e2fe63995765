"""Waiting for a task through the server's door: until it is durable, or as soon as it is decided."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from orlop.framework import Action, Ask, Framework, NotAvailable, Process, Task, View
from orlop.kernel.state import State
from orlop.model.clock import Now
from orlop.server.routing import Host
from orlop.testing.harness import Cluster

WITHIN_S = 20.0


class One(Framework):
    name = "one"

    def reconcile(self, view: View) -> Iterator[Action]:
        if "it" not in view.live:
            yield Ask("it", run=Process("sleep 1000"), name="it")


@attrs.define
class Term:
    """A server's: what is durable, and what is decided beyond it."""

    durable: State
    decided: State


def led(term: Term) -> Host:
    def nobody_asks(*_: Any) -> Any:
        raise AssertionError("nobody asks")

    host = Host(
        cluster_name="c",
        address="",
        version="0",
        state=lambda: term.durable,
        explainer=nobody_asks,
        clock=lambda: Now(utc_ms=0, monotonic_ms=0),
        open_engine=nobody_asks,
    )
    host.lead({"one": nobody_asks}, lambda: term.decided)  # type: ignore[dict-item]
    return host


def runs(task: Task | None) -> bool:
    return task is not None and task.running


@pytest.fixture
def states() -> tuple[State, State]:
    """Before it runs, and when it does."""
    cluster = Cluster(One())
    before = cluster.state
    cluster.add_node("n")
    cluster.settle()
    return before, cluster.state


async def waiting(host: Host, *, durable: bool) -> asyncio.Task[Task | None]:
    """It has looked once already."""
    started = asyncio.create_task(host.wait_for("one", "it", runs, WITHIN_S, durable=durable))
    await asyncio.sleep(0)
    return started


async def test_what_is_decided_is_enough_if_it_may_be_lost(states: tuple[State, State]) -> None:
    before, after = states
    term = Term(durable=before, decided=before)
    host = led(term)
    assert not host.awaits_decisions
    waits = await waiting(host, durable=False)
    assert host.awaits_decisions
    term.decided = after
    host.decided()
    assert runs(await waits)
    assert not host.awaits_decisions


async def test_otherwise_it_has_to_be_written(states: tuple[State, State]) -> None:
    before, after = states
    term = Term(durable=before, decided=after)
    host = led(term)
    waits = await waiting(host, durable=True)
    host.decided()
    host.committed()
    await asyncio.sleep(0)
    assert not waits.done()
    term.durable = after
    host.committed()
    assert runs(await waits)


@pytest.mark.parametrize("durable", [True, False])
async def test_the_end_of_the_term_ends_the_wait(states: tuple[State, State], durable: bool) -> None:
    term = Term(durable=states[0], decided=states[0])
    host = led(term)
    waits = await waiting(host, durable=durable)
    host.follow_leader()
    host.lead({}, lambda: term.decided)
    with pytest.raises(NotAvailable):
        await waits

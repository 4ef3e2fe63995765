"""A term's shell: what it does not say any more when it may not lead any more."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
from terms import begin, parts_of
from waiting import eventually

from orlop.agent.session import LinkClosed, local_session
from orlop.framework import NotAvailable
from orlop.kernel.events import ForgetNode, KillTask
from orlop.model.messages import Hello, Welcome
from orlop.model.nodes import NodeInfo
from orlop.model.resources import Resources
from orlop.server import leadership as module
from orlop.server import sessions
from orlop.server.leadership import Leadership
from orlop.store.interface import OutcomeUnknown
from orlop.store.memory import MemoryStore

HELLO = Hello(node=NodeInfo(id="n", name="n", address="", resources=Resources(cpus=1), runtimes=("process",)))


async def no_engine(_: str) -> Any:
    raise AssertionError


@attrs.define
class Term:
    """A leader of one node, which is told `failed` when it has to end."""

    leads: bool = True
    failed: asyncio.Future[Exception] = attrs.field(factory=lambda: asyncio.get_running_loop().create_future())

    def begin(self) -> Leadership:
        store = MemoryStore()
        term = begin(store)
        made = Leadership(term, parts_of(store, term), self._fail, lambda: self.leads)
        made.start()
        return made

    def _fail(self, error: Exception) -> None:
        if not self.failed.done():
            self.failed.set_result(error)


async def test_a_node_is_told_nothing_once_the_lease_may_have_ended() -> None:
    term = Term()
    leadership = term.begin()
    agent, server = local_session()
    serving = asyncio.create_task(leadership.serve_agent(server))
    agent.send(HELLO)
    async with asyncio.timeout(20):
        assert isinstance(await agent.receive(), Welcome)
        while not agent._inbox.empty():
            await agent.receive()
        term.leads = False  # as it wakes up: what it has written is durable, and would go out
        agent.send(HELLO)
        error = await term.failed
        assert isinstance(error, OutcomeUnknown)
        leadership.abandon(str(error))
        with pytest.raises(LinkClosed):
            await agent.receive()
        await serving


async def abandon(leadership: Leadership, reason: str) -> None:
    """Returns when its threads have ended: they call the loop, which the test must not close before."""
    leadership.abandon(reason)
    await asyncio.to_thread(leadership._core.stop)


async def test_an_operator_is_answered_when_the_lease_is_over_before_the_answer_goes_out() -> None:
    term = Term()
    leadership = term.begin()
    async with asyncio.timeout(20):
        assert not await leadership.submit(ForgetNode(node="nobody"))
        term.leads = False
        asking = asyncio.create_task(leadership.submit(ForgetNode(node="nobody")))
        error = await term.failed
        await abandon(leadership, str(error))
        with pytest.raises(NotAvailable, match="the outcome is not known: its lease may have ended"):
            await asking


async def test_who_is_not_answered_any_more_is_forgotten() -> None:
    leadership = Term().begin()
    gone = asyncio.create_task(leadership.submit(KillTask(task="t", reason="r")))
    await asyncio.sleep(0)
    assert len(leadership._answers) == 1
    gone.cancel()
    await asyncio.wait([gone])
    await abandon(leadership, "another one leads")
    async with asyncio.timeout(20):
        with pytest.raises(NotAvailable, match="another one leads"):
            await leadership.submit(KillTask(task="t", reason="r"))
    assert not leadership._answers


async def test_a_planned_end_answers_whoever_has_asked() -> None:
    leadership = Term().begin()
    asking = [asyncio.create_task(leadership.submit(KillTask(task="t", reason="r"))) for _ in range(3)]
    await asyncio.sleep(0)
    await leadership.stop()
    async with asyncio.timeout(20):
        assert await asyncio.gather(*asking) == [False] * 3


class FailsOnce:
    """rounds: how often it was asked for."""

    def __init__(self, result: Any = None) -> None:
        self.rounds = 0
        self._result = result

    def __call__(self, *_: Any) -> Any:
        self.rounds += 1
        if self.rounds == 1:
            raise ValueError("a bug")
        return self._result


async def test_what_a_term_looks_at_again_and_again_outlives_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HOUSEKEEPING_S", 0.01)
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(sessions, "TICK_MS", 10)
    leadership = Term().begin()
    nodes, store, hangs = FailsOnce([]), FailsOnce(), FailsOnce()
    monkeypatch.setattr(leadership._sessions._liveness, "tick", nodes)
    monkeypatch.setattr(leadership, "_keep_house_once", store)
    framework = cast("Any", SimpleNamespace(check_hang=hangs, stop=lambda _: None))
    leadership._frameworks["f"] = framework
    await eventually(lambda: min(one.rounds for one in (nodes, store, hangs)) > 1, "a round after the one that failed")
    await abandon(leadership, "the test is over")

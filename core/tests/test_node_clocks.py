"""How far nodes' clocks are from the leader's: what is told of it, and that agents tell theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from serving import heard, hello, serving
from waiting import eventually

from orlop.agent import agent as module
from orlop.agent.agent import Agent, read_clock
from orlop.agent.records import AgentRecords, NodeIdentity
from orlop.agent.runtimes.interface import RuntimeContext
from orlop.agent.session import AgentEnd, local_session
from orlop.model.clock import Now
from orlop.model.messages import CLOCK, ClockReading, Epoch, Heartbeat, Welcome
from orlop.model.nodes import NodeInfo
from orlop.model.resources import Resources
from orlop.server.node_clocks import APART_MS, Clocks, NodeClocks

START = Now(1_000_000_000, 5_000)


def judged(ahead_s: Mapping[str, float], now: Now = START) -> Clocks:
    clocks = NodeClocks()
    for node, by in ahead_s.items():
        clocks.told(node, START.utc_ms + round(by * 1000), START)
    return clocks.judge(now, str.upper)


def test_clocks_that_agree_are_no_trouble() -> None:
    found = judged({"a": 0.1, "b": -0.2, "c": (APART_MS - 1) / 1000})
    assert found == Clocks(ahead_ms={"a": 100, "b": -200, "c": APART_MS - 1})


@pytest.mark.parametrize(
    ("ahead_s", "trouble"),
    [
        ({"a": -36, "b": -37, "c": -35}, "the leader's clock is 36 s ahead of those of 3 of 3 nodes: set it right"),
        ({"a": 60, "b": 61, "c": 0}, "the leader's clock is 61 s behind those of 2 of 3 nodes: set it right"),
        ({"a": 60, "b": 61, "c": 0, "d": 0}, "clocks of nodes differ from the leader's: B by +61 s, A by +60 s"),
        ({"a": 60, "b": -61}, "clocks of nodes differ from the leader's: B by -61 s, A by +60 s"),
        ({"a": 5}, "clocks of nodes differ from the leader's: A by +5 s"),
        (
            {"a": 10, "b": 20, "c": 30, "d": 40, "e": 50, "f": 0},
            "clocks of nodes differ from the leader's: E by +50 s, D by +40 s, C by +30 s, 2 more",
        ),
    ],
)
def test_which_clock_is_wrong_is_said_where_it_can_be_told(ahead_s: dict[str, float], trouble: str) -> None:
    assert judged(ahead_s).trouble == trouble


def test_the_leaders_own_clock_that_is_set_counts_at_once() -> None:
    later = Now(START.utc_ms + 7_000 + 3_600_000, START.monotonic_ms + 7_000)
    found = judged({"a": 0, "b": 0}, later)
    assert found.trouble == "the leader's clock is 3600 s ahead of those of 2 of 2 nodes: set it right"


def test_a_reading_that_was_held_up_is_outweighed_and_a_node_that_is_gone_forgotten() -> None:
    clocks = NodeClocks()
    clocks.told("a", START.utc_ms, START)
    clocks.told("a", START.utc_ms - 20_000, START)
    assert clocks.judge(START, str).ahead_ms == {"a": 0}
    clocks.told("a", START.utc_ms - 20_000, START)
    assert clocks.judge(START, str).ahead_ms == {"a": -20_000}
    clocks.forget("a")
    assert clocks.judge(START, str) == Clocks()


async def test_what_nodes_tell_of_their_clocks_is_shown(tmp_path: Path) -> None:
    async with serving(tmp_path, auth=False) as one:
        for node, ahead_ms in (("n1", -60_000), ("n2", -61_000), ("n3", 0)):
            link = await one.joined(node)
            session = await link.connect()
            session.send(hello(node))
            assert CLOCK in (await heard(session, Welcome)).understands
            session.send(ClockReading(utc_ms=read_clock().utc_ms + ahead_ms))
        await eventually(lambda: len(one.server.clocks().ahead_ms) == 3, "all have told it")
        found = one.server.clocks()
        assert "the leader's clock is 6" in found.trouble
        assert "of 2 of 3 nodes" in found.trouble


@pytest.mark.parametrize("understands", [(CLOCK,), ()])
async def test_an_agent_tells_its_clock_now_and_then_to_who_understands_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, understands: tuple[str, ...]
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(module, "CLOCK_EVERY_BEATS", 2)
    agent_end, server_end = local_session()

    async def connect() -> AgentEnd:
        return agent_end

    agent = Agent(
        info=NodeInfo(id="n1", name="n1", address="127.0.0.1", resources=Resources(cpus=1)),
        records=AgentRecords(tmp_path / "agent.db"),
        identity=NodeIdentity(node_id="n1"),
        context=RuntimeContext(cluster_id="c", node_id="n1", data=tmp_path, tasks=tmp_path),
        runtimes=[],
        connect=connect,
    )
    running = asyncio.create_task(agent.run())
    said: list[Any] = []

    async def beats(number: int) -> None:
        while sum(isinstance(message, Heartbeat) for message in said) < number:
            said.append(await server_end.receive())

    try:
        async with asyncio.timeout(20):
            await beats(4)
            assert not [message for message in said if isinstance(message, ClockReading)], "not before the welcome"
            server_end.send(Welcome(cluster_id="c", epoch=Epoch(1, 1), understands=understands))
            said.clear()
            await beats(8)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    readings = [message.utc_ms for message in said if isinstance(message, ClockReading)]
    assert bool(readings) is bool(understands)
    if understands:
        assert len(readings) >= 4
        assert abs(readings[-1] - read_clock().utc_ms) < 10_000

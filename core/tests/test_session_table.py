"""Which of a node's sessions counts, in the table and in the server's shell around it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.agent.session import AgentEnd, LinkClosed, local_session
from orlop.kernel.events import AgentHello, Event, NodeLeaves, NodeSilent, ToNode
from orlop.model.clock import Now
from orlop.model.messages import Goodbye, Hello, Received
from orlop.model.nodes import NodeInfo
from orlop.model.ports import PortSet
from orlop.model.resources import Resources
from orlop.server.liveness import Liveness, LivenessSettings
from orlop.server.session_table import SessionTable
from orlop.server.sessions import Sessions

DEADLINE_S = 20


def table_of(*sessions: str) -> SessionTable[str]:
    """Links are named like their sessions."""
    table: SessionTable[str] = SessionTable()
    for session in sessions:
        table.begin(session, session)
    return table


def test_a_newer_session_ends_the_one_before() -> None:
    table = table_of("first", "second")
    assert table.hello("first", "n1") is None
    assert table.hello("second", "n1") == "first"
    assert (table.node_of("first"), table.node_of("second")) == ("", "n1")
    assert table.to_node("n1") == "second"
    table.end("first")
    assert table.to_node("n1") == "second"


@pytest.mark.parametrize("ended", [False, True])
def test_a_hello_that_comes_late_ends_its_own_session(ended: bool) -> None:
    table = table_of("first", "second")
    table.hello("second", "n1")
    if ended:
        table.end("second")
    assert table.hello("first", "n1") == "first"
    assert table.node_of("first") == ""
    table.end("first")
    assert table.to_node("n1") == (None if ended else "second")


def test_a_session_may_say_hello_again() -> None:
    table = table_of("first", "other")
    table.hello("other", "n2")
    table.hello("first", "n1")
    assert table.hello("first", "n1") is None
    assert (table.to_node("n1", "first"), table.to_node("n1", "other"), table.to_node("n3")) == ("first", None, None)
    assert table.link("first") == "first"
    assert sorted(table.links()) == ["first", "other"]


@given(st.integers(1, 5), st.lists(st.tuples(st.sampled_from(["hello", "end"]), st.integers(0, 4)), max_size=20))
def test_the_newest_that_said_hello_is_the_nodes_session(count: int, happens: list[tuple[str, int]]) -> None:
    """Whatever comes in whichever order; ended sessions say nothing more."""
    table = table_of(*map(str, range(count)))
    newest, open_sessions = -1, set(range(count))
    for what, number in happens:
        if number not in open_sessions:
            continue
        if what == "end":
            open_sessions.discard(number)
            table.end(str(number))
        else:
            ends = table.hello(str(number), "n1")
            assert (ends == str(number)) is (number < newest)
            newest = max(newest, number)
        current = str(newest) if newest in open_sessions else None
        assert table.to_node("n1") == current
        assert [number for number in range(count) if table.node_of(str(number))] == [newest] * (current is not None)


class Recorder:
    """What the sessions tell the kernel."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def submit(self, event: Event, done: Any = None) -> None:
        self._events.put_nowait(event)

    def empty(self) -> bool:
        return self._events.empty()

    async def next(self) -> Event:
        async with asyncio.timeout(DEADLINE_S):
            return await self._events.get()


def hello(name: str) -> Hello:
    info = NodeInfo(
        id=name,
        name=name,
        address=name,
        resources=Resources(cpus=1),
        ports=PortSet.parse("31000-31001"),
        runtimes=("process",),
        boot_id="1",
    )
    return Hello(node=info, cluster_id="", statuses=())


def test_the_server_serves_a_nodes_newest_session() -> None:
    """The hello of a session that its node has given up arrives after that of the next one, and so does its end."""

    async def scenario() -> None:
        core = Recorder()
        liveness = Liveness(LivenessSettings(), iter(()), 0)
        sessions = Sessions(core, liveness, lambda: Now(0, 0), None)  # type: ignore[arg-type]
        ends: list[AgentEnd] = []
        serving = []
        for _ in range(2):
            agent_end, server_end = local_session()
            ends.append(agent_end)
            serving.append(asyncio.create_task(sessions.serve(server_end)))
            await asyncio.sleep(0)
        old, new = ends
        new.send(hello("n1"))
        assert isinstance(await core.next(), AgentHello)
        old.send(hello("n1"))
        old.send(Goodbye())
        await serving[0]
        with pytest.raises(LinkClosed):
            await old.receive()
        sessions.send(ToNode(node="n1", message=Received(items=())))
        assert await new.receive() == Received(items=())
        new.send(Goodbye())
        assert isinstance(await core.next(), NodeLeaves)  # the old one's was not heeded
        assert core.empty()
        new.close()
        await serving[1]

    asyncio.run(scenario())


def test_the_session_of_a_silent_node_is_ended() -> None:
    """What is given up meanwhile it would not hear of otherwise: only a session's beginning tells the full truth."""

    async def scenario() -> None:
        core = Recorder()
        sessions = Sessions(core, Liveness(LivenessSettings(), iter(()), 0), lambda: Now(0, 0), None)  # type: ignore[arg-type]
        agent_end, server_end = local_session()
        serving = asyncio.create_task(sessions.serve(server_end))
        agent_end.send(hello("n1"))
        assert isinstance(await core.next(), AgentHello)
        silent = NodeSilent(node="n1", silent_ms=15_000)
        sessions._tell_silent(silent)
        assert await core.next() == silent
        with pytest.raises(LinkClosed):
            await agent_end.receive()
        await serving
        sessions._tell_silent(NodeSilent(node="n1", silent_ms=60_000, gone=True))  # there is none any more

    asyncio.run(scenario())

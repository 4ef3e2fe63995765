"""An agent whose records cannot be written for a while: nothing is started or told until they can, and nothing lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs

from orlop.agent.agent import Agent
from orlop.agent.decisions import Remove, Signal, Start, Tell
from orlop.agent.records import AgentRecords, CannotSave, NodeIdentity
from orlop.agent.runtimes.interface import Launch, Phase, Report, RuntimeContext, RuntimeEvent, Snapshot
from orlop.agent.saving import Held
from orlop.agent.session import AgentEnd, ServerEnd, local_session
from orlop.agent.task_record import TaskRecord
from orlop.model.messages import Assignment, Assignments, Epoch, Hello, Statuses, Welcome
from orlop.model.nodes import NodeInfo
from orlop.model.resources import Resources
from orlop.model.tasks import Desired, Spec, Status, TaskState

WITHIN_S = 30.0
EPOCH = Epoch(1, 1)


class Records(AgentRecords):
    """full: as on a full disk."""

    full = False

    def save(self, records: Iterable[TaskRecord], dropped: Iterable[str], epoch: Epoch | None) -> None:
        if self.full:
            raise CannotSave("the disk is full")
        super().save(records, dropped, epoch)


class Runtime:
    """Notes what it is asked for."""

    name = "process"

    def __init__(self) -> None:
        self.started: list[str] = []
        self.signalled: list[str] = []
        self.news = asyncio.Event()
        self.report: Callable[[RuntimeEvent], None] = lambda _: None

    async def open(self, report: Callable[[RuntimeEvent], None]) -> None:
        self.report = report
        report(Snapshot(runtime=self.name, reports=()))

    async def start(self, launch: Launch) -> None:
        self.started.append(launch.task)
        self.report(Report(task=launch.task, incarnation=1, phase=Phase.RUNNING, external_id="1"))

    async def signal(self, task: str, signal_name: str) -> None:
        self.signalled.append(task)
        self.news.set()

    async def close(self) -> None:
        pass


@attrs.define
class Node:
    records: Records
    runtime: Runtime
    server: ServerEnd
    received: list[Any] = attrs.field(factory=list)

    async def until(self, wanted: Callable[[Any], bool]) -> Any:
        """The next message to the server that fits."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                message = await self.server.receive()
                self.received.append(message)
                if wanted(message):
                    return message

    def assign(self, *tasks: str, desired: Desired = Desired.RUNNING) -> None:
        items = tuple(
            Assignment(
                task=task, framework="f", key=task, name=task, spec=Spec(runtime="process", payload={}), desired=desired
            )
            for task in tasks
        )
        self.server.send(Assignments(epoch=EPOCH, revision=1, items=items))


def is_hello(*runtimes: str) -> Callable[[Any], bool]:
    return lambda message: isinstance(message, Hello) and message.node.runtimes == runtimes


def tells(task: str, state: TaskState) -> Callable[[Any], bool]:
    return lambda message: (
        isinstance(message, Statuses) and any(status.task == task and status.state is state for status in message.items)
    )


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[Node]:
    agent_end, server_end = local_session()

    async def connect() -> AgentEnd:
        return agent_end

    records, runtime = Records(tmp_path / "agent.db"), Runtime()
    agent = Agent(
        info=NodeInfo(id="n", name="n", address="127.0.0.1", resources=Resources()),
        records=records,
        identity=NodeIdentity(node_id="n", cluster_id="c"),
        context=RuntimeContext(cluster_id="c", node_id="n", data=tmp_path, tasks=tmp_path),
        runtimes=[runtime],  # type: ignore[list-item]
        connect=connect,
    )
    life = asyncio.create_task(agent.run())
    node = Node(records, runtime, server_end)
    await node.until(is_hello("process"))
    server_end.send(Welcome(cluster_id="c", epoch=EPOCH))
    try:
        yield node
    finally:
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)


async def test_nothing_is_started_or_told_before_it_is_on_disk(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        node.assign("first")
        await node.until(tells("first", TaskState.RUNNING))
        node.records.full = True
        node.assign("second")
        hello = await node.until(is_hello())
        assert hello.node.unavailable == {"process": "the disk is full"}
        assert node.runtime.started == ["first"]
        node.runtime.report(Report(task="first", incarnation=1, phase=Phase.RUNNING, external_id="1", message="news"))
        node.assign("first", desired=Desired.STOPPED)
        await asyncio.wait_for(node.runtime.news.wait(), WITHIN_S)
        assert node.runtime.signalled == ["first"], "what only ends something need not wait"
        assert not any(tells("second", state)(message) for message in node.received for state in TaskState)

        node.records.full = False
        await node.until(is_hello("process"))
        await node.until(tells("second", TaskState.RUNNING))
        assert node.runtime.started == ["first", "second"]
        saved = {record.assignment.task: record for record in node.records.tasks()}
        assert saved["first"].status.state is TaskState.STOPPING, "what was decided meanwhile is on disk too"
        assert saved["second"].status.state is TaskState.RUNNING


def test_what_is_held_does_not_grow_with_the_time() -> None:
    def status(task: str, incarnation: int, sequence: int) -> Status:
        return Status(task=task, state=TaskState.RUNNING, incarnation=incarnation, sequence=sequence)

    def start(incarnation: int) -> Start:
        spec = Spec(runtime="process", payload={})
        return Start(
            Assignment(
                task="t", framework="f", key="t", name="t", spec=spec, desired=Desired.RUNNING, incarnation=incarnation
            )
        )

    first, second = start(1), start(2)
    remove, signal = Remove("process", "t"), Signal("process", "t", "SIGTERM")
    held = Held()
    for sequence in range(1, 101):
        told = Tell((status("t", 1, sequence), status("t", 2, sequence), status("u", 1, sequence)))
        assert held.hold([first, told, signal, remove, second]) == [signal]
    newest = Tell((status("t", 1, 100), status("t", 2, 100), status("u", 1, 100)))
    assert held.take() == [remove, second, newest]
    assert held.take() == []

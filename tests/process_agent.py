"""The process runtime in the place where an agent has it, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import waiting
from waiting import is_alive

from orlop.agent.cgroups import NoControlGroups, find_hierarchies
from orlop.agent.runtimes.interface import (
    Launch,
    Phase,
    Report,
    RuntimeContext,
    RuntimeEvent,
    Snapshot,
)
from orlop.agent.runtimes.process import ProcessRuntime
from orlop.model.messages import Assignment
from orlop.model.resources import Resources
from orlop.model.tasks import Desired, Spec

WITHIN_S = 30.0

wait_until = functools.partial(waiting.eventually, deadline_s=WITHIN_S)


def read(path: Path) -> bytes:
    return path.read_bytes()


@attrs.define
class Agent:
    """A runtime in the place of an agent, and all that it has reported."""

    context: RuntimeContext
    runtime: ProcessRuntime = attrs.field(init=False)
    events: list[RuntimeEvent] = attrs.field(factory=list)

    async def __aenter__(self) -> Agent:
        self.runtime = ProcessRuntime(self.context)
        await self.runtime.open(self.events.append)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runtime.close()

    def latest(self, task: str) -> Report | None:
        latest = None
        for event in self.events:
            if isinstance(event, Report) and event.task == task:
                latest = event
            elif isinstance(event, Snapshot):
                latest = next((report for report in event.reports if report.task == task), None)
        return latest

    def phase(self, task: str) -> Phase | None:
        """What was reported last."""
        latest = self.latest(task)
        return latest.phase if latest is not None else None

    async def start(self, task: str, payload: Mapping[str, Any] | str, **other: Any) -> None:
        await self.runtime.start(self.launch(task, payload, **other))

    def launch(
        self,
        task: str,
        payload: Mapping[str, Any] | str,
        incarnation: int = 1,
        environment: Mapping[str, str] | None = None,
        resources: Resources | None = None,
    ) -> Launch:
        body = {"command": payload} if isinstance(payload, str) else payload
        spec = Spec(runtime="process", payload=body, resources=resources or Resources())
        assignment = Assignment(
            task=task,
            framework="test",
            key=task,
            name=task,
            spec=spec,
            desired=Desired.RUNNING,
            incarnation=incarnation,
            environment=environment or {},
        )
        return Launch(assignment=assignment, directory=self.context.tasks / task)

    async def reaches(self, task: str, phase: Phase, incarnation: int = 1) -> Report:
        def reached() -> Report | None:
            report = self.latest(task)
            fits = report is not None and report.phase is phase and report.incarnation == incarnation
            return report if fits else None

        return await wait_until(reached, f"{task} is {phase}; it is {self.latest(task)}")

    async def running(self, task: str) -> int:
        return int((await self.reaches(task, Phase.RUNNING)).external_id)

    async def ended(self, task: str, incarnation: int = 1) -> Any:
        return (await self.reaches(task, Phase.ENDED, incarnation)).exit

    def output(self, task: str, stream: str = "stdout") -> str:
        path = self.context.tasks / task / stream
        return path.read_text() if path.exists() else ""

    def supervisor(self) -> int:
        assert self.runtime._client is not None
        return self.runtime._client.pid


async def clean_up(context: RuntimeContext) -> None:
    async with Agent(context) as agent:
        supervisor = agent.supervisor()
        (snapshot,) = (event for event in agent.events if isinstance(event, Snapshot))
        for report in snapshot.reports:
            await agent.runtime.kill(report.task)
            await agent.ended(report.task, report.incarnation)
    os.kill(supervisor, signal.SIGTERM)
    await wait_until(lambda: not is_alive(supervisor), "the supervisor ends")
    try:
        hierarchies = find_hierarchies(read(Path("/proc/self/mounts")).decode())
    except NoControlGroups:
        return
    for folder in hierarchies.distinct:
        node = folder / "orlop" / context.node_id
        if node.exists():
            await wait_until(lambda group=node / "_supervisor": not (group / "cgroup.procs").read_text(), "empty")
            (node / "_supervisor").rmdir()
            assert [path.name for path in node.iterdir() if path.is_dir()] == []
            node.rmdir()
            with contextlib.suppress(OSError):
                node.parent.rmdir()


def run(context: RuntimeContext, story: Callable[[Agent], Awaitable[None]]) -> None:
    async def tell() -> None:
        async with Agent(context) as agent:
            await story(agent)

    asyncio.run(tell())


async def expect_nothing(agent: Agent) -> None:
    assert agent.events == [Snapshot(runtime="process", reports=())]

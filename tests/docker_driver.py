"""The docker runtime in the place where an agent has it, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import docker.errors
from engines import wait_until

from orlop.agent.runtimes.docker import DockerRuntime
from orlop.agent.runtimes.interface import (
    Launch,
    Phase,
    Report,
    RuntimeContext,
    RuntimeEvent,
)
from orlop.model.messages import Assignment
from orlop.model.tasks import Desired, Exit, Spec

WITHIN_S = 60.0
SLEEP = ["sleep", "1000"]
NUMBERS = itertools.count(1)


def exit_of(report: Report) -> Exit:
    """How what is reported has ended."""
    assert report.exit is not None, report
    return report.exit


@attrs.define
class Driver:
    """A runtime and all that it has reported."""

    runtime: DockerRuntime
    events: list[RuntimeEvent] = attrs.field(factory=list)
    news: asyncio.Event = attrs.field(factory=asyncio.Event)

    def hear(self, event: RuntimeEvent) -> None:
        self.events.append(event)
        self.news.set()

    async def until(self, condition: Callable[[RuntimeEvent], bool], since: int = 0) -> Any:
        """The first event, from the `since`th on, that fits."""
        try:
            async with asyncio.timeout(WITHIN_S):
                while True:
                    self.news.clear()
                    for event in self.events[since:]:
                        if condition(event):
                            return event
                    await self.news.wait()
        except TimeoutError:
            raise AssertionError(f"not among {self.events[since:]}") from None

    async def phase(self, task: str, phase: Phase, since: int = 0) -> Report:
        def fits(event: RuntimeEvent) -> bool:
            return isinstance(event, Report) and event.task == task and event.phase is phase

        found: Report = await self.until(fits, since)
        return found

    async def exit(self, task: str) -> Exit:
        """How the task has ended."""
        return exit_of(await self.phase(task, Phase.ENDED))

    async def kind(self, kind: type, since: int = 0) -> Any:
        return await self.until(lambda event: isinstance(event, kind), since)

    def reports(self) -> list[Report]:
        return [event for event in self.events if isinstance(event, Report)]

    def phases(self, task: str) -> list[Phase]:
        return [report.phase for report in self.reports() if report.task == task]


@contextlib.asynccontextmanager
async def opened(context: RuntimeContext) -> AsyncIterator[Driver]:
    driver = Driver(DockerRuntime(context))
    await driver.runtime.open(driver.hear)
    try:
        yield driver
    finally:
        await driver.runtime.close()


def launch(context: RuntimeContext, command: list[str] | None = None, **options: Any) -> Launch:
    payload = {"Image": "busybox:latest", "StopTimeout": 1, "Cmd": command or SLEEP, **options.pop("payload", {})}
    ports = options.pop("host_ports", ())
    environment = options.pop("environment", {})
    assignment = Assignment(
        task=options.pop("task", f"t{next(NUMBERS)}"),
        framework="f",
        key="k",
        name="n",
        spec=Spec(runtime="docker", payload=payload, **options),
        desired=Desired.RUNNING,
        ports=ports,
        environment=environment,
    )
    return Launch(assignment=assignment, directory=context.tasks)


async def gone(client: docker.APIClient, container: str) -> None:
    def absent() -> bool:
        try:
            client.inspect_container(container)
        except docker.errors.NotFound:
            return True
        return False

    await asyncio.to_thread(wait_until, absent, f"{container} to be gone")


async def collect(output: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in output])

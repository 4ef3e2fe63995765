"""A client is told that a container that moves was started or stopped when the kernel has heard of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from scripted_engines import Asked, ScriptedPool, ScriptedResponse
from test_swarm_framework import MOVES, Pool
from waiting import eventually

from orlop.framework import NotAvailable, Task, View
from orlop_swarm.http import kernel_containers
from orlop_swarm.http.finding import Owner
from orlop_swarm.http.kernel_containers import KernelContainers
from orlop_swarm.http.looking import Looking
from orlop_swarm.http.services import Switch
from orlop_swarm.settings import Config

SOON_S = 0.05


class Kernel:
    """What the routes use of the server: here of a cluster in memory."""

    def __init__(self, pool: Pool) -> None:
        self._cluster = pool.cluster

    async def view(self, _: str) -> View:
        return self._cluster.view("swarm")

    async def wait_for(
        self, framework: str, name: str, condition: Callable[[Task | None], bool], timeout_s: float
    ) -> Task | None:
        async with asyncio.timeout(timeout_s):
            await eventually(lambda: condition(self._cluster.view(framework).task_named(name)), name)
            return self._cluster.view(framework).task_named(name)


class Told:
    """A container, and what clients wait for. runs: what its engine says."""

    def __init__(self, **body: Any) -> None:
        self.pool = Pool(1)
        self.key = self.pool.create("web", **body).key
        self.runs = False
        engines = ScriptedPool({"n0": self._answer})
        self._containers = KernelContainers(cast("Any", Kernel(self.pool)), engines, Looking(), Config())
        self._containers._ordering.made("c", self.key)
        (engine,) = engines.engines()
        self._owner = Owner(engine=engine, reference="web", id="c", sure=True)

    @property
    def task(self) -> Task:
        return self.pool.task(self.key)

    def _answer(self, _: Asked) -> ScriptedResponse:
        return ScriptedResponse([{"State": {"Running": self.runs}}])

    async def by(self, switch: Switch) -> asyncio.Task[None]:
        """The engine has done so; the kernel has not heard of it yet."""
        known = await self._containers.switching()
        self.runs = switch is not Switch.STOPPED
        return asyncio.create_task(self._wait(known(self._owner, switch)))

    @staticmethod
    async def _wait(known: Any) -> None:
        await known


async def is_answered(waiting: asyncio.Task[None]) -> bool:
    done, _ = await asyncio.wait([waiting], timeout=SOON_S)
    return bool(done)


async def test_an_answer_waits_until_the_kernel_has_heard() -> None:
    told = Told(**MOVES)
    started = await told.by(Switch.STARTED)
    assert not await is_answered(started)
    told.pool.cluster.start_task(told.task)
    await started
    stopped = await told.by(Switch.STOPPED)
    assert not await is_answered(stopped)
    told.pool.cluster.stop_task(told.task)
    await stopped


async def test_a_restart_is_the_next_run() -> None:
    told = Told(**MOVES)
    told.pool.cluster.start_task(told.task)
    anew = await told.by(Switch.STARTED_ANEW)
    assert not await is_answered(anew)
    told.pool.cluster.stop_task(told.task)
    assert not await is_answered(anew)
    told.pool.cluster.start_task(told.task)
    await anew


async def test_what_does_not_move_or_is_gone_is_not_waited_for() -> None:
    await (await Told().by(Switch.STARTED))
    told = Told(**MOVES)
    removed = await told.by(Switch.STOPPED)
    told.pool.cluster.end_task(told.task)
    await removed


async def test_a_run_that_is_over_and_was_not_told_of_is_no_reason_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_containers, "NEWS_WITHIN_S", SOON_S)
    told = Told(**MOVES)
    started = await told.by(Switch.STARTED)
    assert not await is_answered(started)
    told.runs = False
    await started


async def test_a_node_that_never_tells_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_containers, "NEWS_WITHIN_S", SOON_S)
    monkeypatch.setattr(kernel_containers, "TOLD_WITHIN_S", 3 * SOON_S)
    told = Told(**MOVES)
    with pytest.raises(NotAvailable, match="the node of container web has not told that it was started"):
        await (await told.by(Switch.STARTED))

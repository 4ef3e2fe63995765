"""The docker runtime and an engine that is absent, goes, comes, or hangs."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from docker_driver import collect, launch, opened
from engines import Engine

from orlop.agent.runtimes.docker_engine import connect
from orlop.agent.runtimes.interface import (
    Phase,
    RuntimeContext,
    Snapshot,
    Unavailable,
)
from orlop.model.tasks import Outcome

# docker-py leaves a socket to the garbage collector when an engine goes away under it
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


async def test_no_engine_then_one(context: RuntimeContext, engine: Engine) -> None:
    await asyncio.to_thread(engine.stop)
    async with opened(context) as driver:
        (first,) = driver.events
        assert isinstance(first, Unavailable)
        assert engine.url in first.reason
        one, two = launch(context), launch(context)
        await driver.runtime.start(one)
        await driver.runtime.start(two)
        waiting = await driver.phase(one.task, Phase.PREPARING)
        assert waiting.message == "waiting for the Docker Engine"
        await driver.runtime.kill(two.task)
        killed = await driver.phase(two.task, Phase.ENDED)
        assert killed.exit is not None
        assert killed.exit.outcome is Outcome.KILLED
        await asyncio.to_thread(engine.start)
        snapshot = await driver.kind(Snapshot)
        assert one.task in {report.task for report in snapshot.reports}
        await driver.phase(one.task, Phase.RUNNING)


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_an_engine_that_goes_and_comes(context: RuntimeContext, engine: Engine, client: Any, how: str) -> None:
    async with opened(context) as driver:
        one, lost = launch(context), launch(context, payload={"HostConfig": {"AutoRemove": True}})
        for each in (one, lost):
            await driver.runtime.start(each)
            await driver.phase(each.task, Phase.RUNNING)
        mark = len(driver.events)
        await asyncio.to_thread(getattr(engine, how))
        await driver.kind(Unavailable, mark)
        during = launch(context)
        await driver.runtime.start(during)
        await asyncio.to_thread(engine.start)
        snapshot = await driver.kind(Snapshot, mark)
        reports = {report.task: report for report in snapshot.reports}
        # An orderly stop may be seen as an event before the connection ends.
        seen = reports[one.task]
        assert seen.exit is not None
        assert (seen.phase, seen.exit.signal) == (Phase.ENDED, 9)
        assert reports[during.task].phase is Phase.PREPARING
        assert lost.task not in reports
        await driver.phase(during.task, Phase.RUNNING)
        again = launch(context, ["true"])
        await driver.runtime.start(again)
        await driver.phase(again.task, Phase.ENDED)


async def test_an_engine_that_hangs_is_told_and_nothing_is_lost_or_doubled(
    context: RuntimeContext, engine: Engine, client: Any, hanging: Callable[[], None]
) -> None:
    async with opened(context) as driver:
        kept, killed = launch(context), launch(context)
        for each in (kept, killed):
            await driver.runtime.start(each)
        before = {each.task: await driver.phase(each.task, Phase.RUNNING) for each in (kept, killed)}
        mark = len(driver.events)
        under_way = [launch(context) for _ in range(4)]
        for each in under_way:
            await driver.runtime.start(each)
        await driver.phase(under_way[0].task, Phase.STARTING)
        hanging()
        lost = await driver.kind(Unavailable, mark)
        assert lost.reason == f"the Docker Engine at {engine.url} cannot be used: it does not answer"
        await driver.runtime.kill(killed.task)
        during = launch(context)
        await driver.runtime.start(during)
        waiting = await driver.phase(during.task, Phase.PREPARING)
        assert waiting.message == "waiting for the Docker Engine"
        with pytest.raises(ConnectionError, match="does not answer"):
            await driver.runtime.run_command(kept.task, "true", 30)
        with pytest.raises(ConnectionError, match="does not answer"):
            await collect(driver.runtime.logs(kept.task, "stdout", follow=False, tail=None))
        assert not any(report.phase is Phase.ENDED for report in driver.reports()), "nothing is given up for it"
        engine.go_on()
        snapshot = await driver.kind(Snapshot, mark)
        assert before[kept.task] in snapshot.reports
        for each in (*under_way, during):
            if all(report.task != each.task or report.phase is not Phase.RUNNING for report in snapshot.reports):
                await driver.phase(each.task, Phase.RUNNING, mark)
        ended = await driver.phase(killed.task, Phase.ENDED)
        assert ended.exit is not None
        assert ended.exit.signal == 9
        running = [container["Labels"]["orlop.task"] for container in client.containers()]
        assert sorted(running) == sorted(each.task for each in (kept, *under_way, during))


async def test_an_engine_that_hangs_from_the_beginning(
    context: RuntimeContext, engine: Engine, client: Any, hanging: Callable[[], None]
) -> None:
    hanging()
    async with opened(context) as driver:
        (first,) = driver.events
        assert first == Unavailable(runtime="docker", reason=f"the Docker Engine at {engine.url} has not answered yet")
        engine.go_on()
        assert await driver.kind(Snapshot) == Snapshot(runtime="docker", reports=())


async def test_docker_py_is_not_imported_without_an_engine(tmp_path: Path) -> None:
    script = f"""
import asyncio, sys
from pathlib import Path
from orlop.agent.runtimes.docker import DockerRuntime
from orlop.agent.runtimes.interface import RuntimeContext
async def main():
    here = Path({str(tmp_path)!r})
    context = RuntimeContext(cluster_id="c", node_id="n", data=here, tasks=here, docker=f"unix://{{here}}/none")
    runtime = DockerRuntime(context)
    events = []
    await runtime.open(events.append)
    await runtime.close()
    print(type(events[0]).__name__, sorted({{"docker", "requests"}} & set(sys.modules)))
asyncio.run(main())
"""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "Unavailable []\n"


def test_calls_share_a_connection_whatever_they_ask(engine: Engine) -> None:
    with contextlib.closing(connect(engine.url, 30)) as client:
        for call in (client.ping, client.info, client.containers, client.images):
            call()
        pools = client._custom_adapter.pools
        kept = [connection for url in pools.keys() for connection in pools[url].pool.queue if connection]  # noqa: SIM118
        assert len(kept) == 2, "one is of the question for the version"

"""Kept containers on a real engine: made and not started, then started, stopped and removed by others."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import docker.errors
import pytest
from docker_driver import Driver, exit_of, launch, opened
from engines import wait_until

from orlop.agent.runtimes import docker_starting
from orlop.agent.runtimes.interface import Launch, Phase, Report, RuntimeContext, Snapshot
from orlop.model.tasks import Desired, Outcome, Policies

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

WITHIN_S = 30.0


def kept(context: RuntimeContext, name: str, desired: Desired = Desired.PREPARED, **payload: Any) -> Launch:
    payload = {"orlop_name": name, "orlop_pull": "never", **payload}
    made = launch(context, payload=payload, policies=Policies(keep_ended=True))
    return attrs.evolve(made, assignment=attrs.evolve(made.assignment, desired=desired))


async def ended(driver: Driver, task: str, remains: bool, since: int = 0) -> Report:
    def fits(event: Any) -> bool:
        return isinstance(event, Report) and (event.task, event.phase, event.remains) == (task, Phase.ENDED, remains)

    found: Report = await driver.until(fits, since)
    return found


async def test_it_is_made_with_its_own_name_and_not_started(context: RuntimeContext, client: Any) -> None:
    async with opened(context) as driver:
        one = kept(context, "quiet_name")
        await driver.runtime.start(one)
        report = await driver.phase(one.task, Phase.PREPARED)
        made = await asyncio.to_thread(client.inspect_container, "quiet_name")
        assert (made["Id"], made["State"]["Status"]) == (report.external_id, "created")
        await driver.runtime.start(one)
        assert len(client.containers(all=True)) == 1


async def test_shares_that_are_cpus_are_told_as_the_part_of_its_engine(context: RuntimeContext, client: Any) -> None:
    async with opened(context) as driver:
        one = kept(context, "web", HostConfig={"CpuShares": 1, "Memory": 2**24}, orlop_shares_are_cpus=True)
        await driver.runtime.start(one)
        await driver.phase(one.task, Phase.PREPARED)
        host = client.inspect_container("web")["HostConfig"]
        assert (host["CpuShares"], host["Memory"]) == (-(-1024 // client.info()["NCPU"]), 2**24)


async def test_whoever_starts_stops_renames_and_removes_it_is_heard(context: RuntimeContext, client: Any) -> None:
    async with opened(context) as driver:
        one = kept(context, "played_with")
        await driver.runtime.start(one)
        container = (await driver.phase(one.task, Phase.PREPARED)).external_id
        for code in (0, 1):
            mark = len(driver.events)
            await asyncio.to_thread(client.start, container)
            await driver.phase(one.task, Phase.RUNNING, mark)
            await asyncio.to_thread(client.kill, container, "SIGTERM" if code else "SIGKILL")
            if code:
                await asyncio.to_thread(client.kill, container)
            assert exit_of(await ended(driver, one.task, True, mark)).signal == 9
        await asyncio.to_thread(client.rename, container, "another_name")
        mark = len(driver.events)
        await asyncio.to_thread(client.start, "another_name")
        await driver.phase(one.task, Phase.RUNNING, mark)
        mark = len(driver.events)
        await asyncio.to_thread(client.remove_container, container, force=True)
        await ended(driver, one.task, False, mark)


async def test_one_that_removes_itself_ends_with_its_exit(context: RuntimeContext, client: Any) -> None:
    async with opened(context) as driver:
        one = kept(context, "passing_by", Cmd=["sh", "-c", "exit 5"], HostConfig={"AutoRemove": True})
        await driver.runtime.start(one)
        container = (await driver.phase(one.task, Phase.PREPARED)).external_id
        await asyncio.to_thread(client.start, container)
        assert exit_of(await ended(driver, one.task, False)).code == 5


async def test_what_happened_while_no_agent_was_there_is_seen(context: RuntimeContext, client: Any) -> None:
    ones = {name: kept(context, name) for name in ("stays", "runs", "stopped", "removed")}
    async with opened(context) as driver:
        for one in ones.values():
            await driver.runtime.start(one)
            await driver.phase(one.task, Phase.PREPARED)
    client.start("runs")
    client.start("stopped")
    client.kill("stopped")
    client.remove_container("removed")
    wait_until(lambda: client.containers(all=True, filters={"status": "exited"}), "the end to be listed")
    async with opened(context) as driver:
        snapshot = await driver.kind(Snapshot)
        found = {report.task: (report.phase, report.remains) for report in snapshot.reports}
        assert found == {
            ones["stays"].task: (Phase.PREPARING, False),
            ones["runs"].task: (Phase.RUNNING, False),
            ones["stopped"].task: (Phase.ENDED, True),
        }
        mark = len(driver.events)
        await asyncio.to_thread(client.start, "stopped")
        await driver.phase(ones["stopped"].task, Phase.RUNNING, mark)


@pytest.mark.parametrize("state", ["created", "running", "exited"])
async def test_it_can_be_made_to_go(context: RuntimeContext, client: Any, state: str) -> None:
    async with opened(context) as driver:
        one = kept(context, "to_go")
        await driver.runtime.start(one)
        container = (await driver.phase(one.task, Phase.PREPARED)).external_id
        if state != "created":
            await asyncio.to_thread(client.start, container)
            await driver.phase(one.task, Phase.RUNNING)
        if state == "exited":
            await asyncio.to_thread(client.kill, container)
            await ended(driver, one.task, True)
        mark = len(driver.events)
        await driver.runtime.kill(one.task)
        last = await ended(driver, one.task, state == "running", mark)
        assert last.exit is not None
        await driver.runtime.remove(one.task)

        def free() -> bool:
            try:
                client.inspect_container("to_go")
            except docker.errors.NotFound:
                return True
            return False

        await asyncio.to_thread(wait_until, free, "the name to be free")


async def test_one_that_is_moved_is_started_once(context: RuntimeContext, client: Any) -> None:
    async with opened(context) as driver:
        one = kept(context, "moved", Desired.RUNNING)
        await driver.runtime.start(one)
        await driver.phase(one.task, Phase.RUNNING)
        await asyncio.to_thread(client.stop, "moved", timeout=0)
        assert (await ended(driver, one.task, True)).exit is not None


@pytest.mark.parametrize("heeds", [True, False])
async def test_one_that_comes_back_waits_until_its_former_self_has_given_its_name_up(
    context: RuntimeContext, client: Any, monkeypatch: pytest.MonkeyPatch, heeds: bool
) -> None:
    """heeds: its former self has ended; else it is told to, and takes its time."""
    looked = asyncio.Event()
    adopt = docker_starting.Starting._adopt

    async def noticed(self: Any, *arguments: Any) -> Any:
        looked.set()
        return await adopt(self, *arguments)

    monkeypatch.setattr(docker_starting.Starting, "_adopt", noticed)
    async with opened(context) as driver:
        before, after = kept(context, "back", Desired.RUNNING), kept(context, "back")
        await driver.runtime.start(before)
        await driver.phase(before.task, Phase.RUNNING)
        if heeds:
            await driver.runtime.kill(before.task)
            await ended(driver, before.task, True)
        else:
            await driver.runtime.signal(before.task, "SIGTERM")
        await driver.runtime.start(after)
        await asyncio.wait_for(looked.wait(), WITHIN_S)
        if not heeds:
            await driver.runtime.kill(before.task)
            await ended(driver, before.task, True)
        await driver.runtime.remove(before.task)
        report = await driver.phase(after.task, Phase.PREPARED)
        assert client.inspect_container("back")["Id"] == report.external_id


async def test_an_engines_refusals_are_passed_on(context: RuntimeContext, client: Any) -> None:
    client.create_container("busybox", ["sh"], name="taken")
    async with opened(context) as driver:
        for name, payload in (
            ("taken", {}),
            ("nothing", {"Image": "nowhere/none:1"}),
            ("wrong", {"HostConfig": {"Binds": ["a:b:c:d"]}}),
        ):
            one = kept(context, name, **payload)
            with pytest.raises(docker.errors.APIError) as refused:
                client.create_container_from_config({"Image": "busybox", **payload}, name)
            await driver.runtime.start(one)
            report = await driver.phase(one.task, Phase.ENDED)
            assert (report.message, exit_of(report).outcome) == (str(refused.value.status_code), Outcome.ERROR)
            assert exit_of(report).reason == refused.value.explanation


async def test_a_moved_one_that_cannot_start_is_there_to_be_looked_at(context: RuntimeContext, client: Any) -> None:
    async with opened(context) as driver:
        one = kept(context, "no_program", Desired.RUNNING, Cmd=["/no/such/program"])
        await driver.runtime.start(one)
        report = await ended(driver, one.task, True)
        assert "no such file" in exit_of(report).reason
        assert client.inspect_container("no_program")["Id"] == report.external_id

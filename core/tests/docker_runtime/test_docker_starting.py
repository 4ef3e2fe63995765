"""The docker runtime against a real engine: what starts once, what cannot start, what is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import pytest
from docker_driver import SLEEP, gone, launch, opened
from engines import wait_until

from orlop.agent.runtimes import docker_container
from orlop.agent.runtimes.interface import (
    Phase,
    Report,
    RuntimeContext,
    Snapshot,
)
from orlop.model.resources import Resources
from orlop.model.tasks import Outcome, PortRequest

# docker-py leaves a socket to the garbage collector when an engine goes away under it
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


async def test_starting_again_adopts(context: RuntimeContext, client: Any) -> None:
    async with opened(context) as driver:
        one = launch(context)
        await asyncio.gather(driver.runtime.start(one), driver.runtime.start(one))
        first = await driver.phase(one.task, Phase.RUNNING)
        mark = len(driver.events)
        await driver.runtime.start(one)
        assert (await driver.phase(one.task, Phase.RUNNING, mark)).external_id == first.external_id
        assert len(client.containers(all=True)) == 1


async def test_a_body_is_meant_in_a_version_of_the_api(context: RuntimeContext, client: Any) -> None:
    """Before 1.40 a container's shared memory could be shared unless it was said otherwise."""
    expected = {"": "private", "1.40": "private", "1.39": "shareable", "1.1": "shareable", "99.1": "private"}
    async with opened(context) as driver:
        for version, mode in expected.items():
            one = launch(context, payload={"orlop_api_version": version})
            await driver.runtime.start(one)
            container = (await driver.phase(one.task, Phase.RUNNING)).external_id
            assert client.inspect_container(container)["HostConfig"]["IpcMode"] == mode, version


async def test_a_second_runtime_adopts_what_it_finds(context: RuntimeContext, client: Any) -> None:
    async with opened(context) as driver:
        runs, ends = launch(context), launch(context, ["sh", "-c", "exit 4"])
        for each in (runs, ends):
            await driver.runtime.start(each)
        running = await driver.phase(runs.task, Phase.RUNNING)
        ended = await driver.phase(ends.task, Phase.ENDED)
    # The engine tells of an end before its listing shows it; whoever connects in between is told again.
    wait_until(lambda: client.containers(all=True, filters={"status": "exited"}), "the end to be listed")
    made = launch(context)
    creation = docker_container.creation_of(made, context)
    client.create_container_from_config(creation.body, creation.name)
    foreign = attrs.evolve(context, node_id="another")
    async with opened(context) as second, opened(foreign) as other:
        snapshot = await second.kind(Snapshot)
        assert {report.task: report for report in snapshot.reports if report.task != made.task} == {
            runs.task: running,
            ends.task: attrs.evolve(ended, addresses=()),
        }
        assert await other.kind(Snapshot) == Snapshot(runtime="docker", reports=())
        await second.runtime.start(made)  # created by the first, never started
        await second.phase(made.task, Phase.RUNNING)
        await second.runtime.kill(runs.task)
        killed = await second.phase(runs.task, Phase.ENDED)
        assert killed.exit is not None
        assert killed.exit.signal == 9


async def test_two_runtimes_starting_the_same_make_one_container(context: RuntimeContext, client: Any) -> None:
    async with opened(context) as first, opened(context) as second:
        one = launch(context)
        await asyncio.gather(first.runtime.start(one), second.runtime.start(one))
        here, there = await first.phase(one.task, Phase.RUNNING), await second.phase(one.task, Phase.RUNNING)
        assert here.external_id == there.external_id
        assert len(client.containers(all=True)) == 1


async def test_a_new_incarnation_replaces_the_ended_one(context: RuntimeContext) -> None:
    async with opened(context) as driver:
        one = launch(context, ["true"])
        await driver.runtime.start(one)
        old = await driver.phase(one.task, Phase.ENDED)
        mark = len(driver.events)
        again = attrs.evolve(one, assignment=attrs.evolve(one.assignment, incarnation=2))
        await driver.runtime.start(again)
        new = await driver.phase(one.task, Phase.ENDED, mark)
        assert (new.incarnation, new.exit and new.exit.outcome) == (2, Outcome.FINISHED)
        assert new.external_id != old.external_id


async def test_failures_to_start_say_what_the_engine_says(context: RuntimeContext, client: Any) -> None:
    taken = launch(context, ports=(PortRequest(container=80),), host_ports=(31003,))
    cases = {
        "port is already allocated": launch(context, ports=(PortRequest(container=80),), host_ports=(31003,)),
        "no-such-program": launch(context, ["no-such-program"]),
        "invalid volume specification": launch(context, payload={"HostConfig": {"Binds": ["relative:/x:bad:y"]}}),
        "no.such.registry.invalid": launch(context, payload={"Image": "no.such.registry.invalid/image:1"}),
        "payload.Image: expected the name of an image, got 5": launch(context, payload={"Image": 5}),
        "payload.orlop_pull": launch(context, payload={"orlop_pull": "sometimes"}),
    }
    async with opened(context) as driver:
        await driver.runtime.start(taken)
        await driver.phase(taken.task, Phase.RUNNING)
        for each in cases.values():
            await driver.runtime.start(each)
        for text, each in cases.items():
            ended = await driver.phase(each.task, Phase.ENDED)
            assert ended.exit is not None
            assert ended.exit.outcome is Outcome.ERROR
            assert text in ended.exit.reason
            await gone(client, f"orlop-{each.task}")
        pulling = cases["no.such.registry.invalid"].task
        assert driver.phases(pulling) == [Phase.PREPARING, Phase.ENDED]


async def test_pull_always_asks_the_registry(context: RuntimeContext) -> None:
    async with opened(context) as driver:
        one = launch(context, payload={"orlop_pull": "always"})
        await driver.runtime.start(one)
        ended = await driver.phase(one.task, Phase.ENDED)
        assert ended.exit is not None
        assert ended.exit.outcome is Outcome.ERROR
        messages = [event.message for event in driver.events if isinstance(event, Report)]
        assert messages[0] == "pulling busybox:latest"


async def test_a_name_taken_by_a_stranger_is_left_alone(context: RuntimeContext, client: Any) -> None:
    one = launch(context)
    body = {"Image": "busybox", "Cmd": SLEEP}
    stranger = client.create_container_from_config(body, f"orlop-{one.task}")["Id"]
    async with opened(context) as driver:
        await driver.runtime.start(one)
        ended = await driver.phase(one.task, Phase.ENDED)
        assert ended.exit is not None
        assert ended.exit.outcome is Outcome.ERROR
        assert "taken by a container that is not of this task" in ended.exit.reason
    assert client.inspect_container(stranger)["State"]["Status"] == "created"


@pytest.mark.parametrize("automatic", [False, True])
async def test_a_foreign_removal_is_a_loss(context: RuntimeContext, client: Any, automatic: bool) -> None:
    async with opened(context) as driver:
        one = launch(context, payload={"HostConfig": {"AutoRemove": automatic}})
        await driver.runtime.start(one)
        running = await driver.phase(one.task, Phase.RUNNING)
        await asyncio.to_thread(client.remove_container, running.external_id, force=True)
        ended = await driver.phase(one.task, Phase.ENDED)
        assert ended.exit is not None
        assert ended.exit.outcome is Outcome.LOST
        assert driver.phases(one.task).count(Phase.ENDED) == 1


async def test_a_container_that_removes_itself_has_its_exit_code(context: RuntimeContext) -> None:
    async with opened(context) as driver:
        one = launch(context, ["sh", "-c", "exit 6"], payload={"HostConfig": {"AutoRemove": True}})
        await driver.runtime.start(one)
        ended = await driver.phase(one.task, Phase.ENDED)
        assert ended.exit is not None
        assert (ended.exit.outcome, ended.exit.code) == (Outcome.FAILED, 6)


async def test_out_of_memory_is_named(context: RuntimeContext) -> None:
    """The engine hears of it beside the exit, now and then after it: then the signal alone is reported."""
    reasons = []
    async with opened(context) as driver:
        for _ in range(10):
            one = launch(context, ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M"], resources=Resources(mem="8MiB"))
            await driver.runtime.start(one)
            ended = await driver.phase(one.task, Phase.ENDED)
            assert ended.exit is not None
            assert ended.exit.signal == 9
            reasons.append(ended.exit.reason)
            if "out of memory" in ended.exit.reason:
                return
    raise AssertionError(f"never named: {reasons}")


async def test_twenty_starts_each_once(context: RuntimeContext, client: Any) -> None:
    async with opened(context) as driver:
        many = [launch(context) for _ in range(20)]
        for each in many:
            await driver.runtime.start(each)
        for each in many:
            await driver.phase(each.task, Phase.RUNNING)
        assert {driver.phases(each.task).count(Phase.RUNNING) for each in many} == {1}
        assert len(client.containers()) == 20
        for each in many:
            await driver.runtime.kill(each.task)
        for each in many:
            await driver.phase(each.task, Phase.ENDED)


async def test_ended_containers_are_kept_by_count(
    context: RuntimeContext, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_container, "KEPT_COUNT_MAX", 2)
    async with opened(context) as driver:
        made = []
        for number in range(4):
            one = launch(context, ["sh", "-c", f"echo out {number}; echo err {number} >&2"])
            made.append(one.task)
            await driver.runtime.start(one)
            await driver.phase(one.task, Phase.ENDED)
            await driver.runtime.remove(one.task)
            await gone(client, f"orlop-{one.task}")

        def two_left() -> bool:
            return len(client.containers(all=True)) == 2

        await asyncio.to_thread(wait_until, two_left, "two kept containers")
        for number, task in enumerate(made):
            for stream, start in (("stdout", "out"), ("stderr", "err")):
                pieces = driver.runtime.logs(task, stream, follow=False, tail=None)
                assert b"".join([piece async for piece in pieces]) == b"%s %d\n" % (start.encode(), number)
    async with opened(context) as second:
        assert await second.kind(Snapshot) == Snapshot(runtime="docker", reports=())

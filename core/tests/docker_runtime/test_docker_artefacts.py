"""Artefacts of containers, in a real engine: in a folder of the task's own, before the container is made."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from typing import Any

import attrs
import pytest
from docker_driver import launch, opened
from file_server import FileServer
from waiting import eventually

from orlop.agent.runtimes import docker_sandbox
from orlop.agent.runtimes.interface import Launch, Phase, RuntimeContext
from orlop.model.tasks import Outcome

pytestmark = [pytest.mark.docker, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]


def launch_with(context: RuntimeContext, command: str, *artefacts: dict[str, Any], **payload: Any) -> Launch:
    made = launch(context, ["sh", "-c", command], payload={"orlop_artefacts": list(artefacts), **payload})
    return attrs.evolve(made, directory=context.tasks / made.task)


@pytest.mark.parametrize("user", ["0", "1000"])
async def test_a_container_has_its_artefacts(
    context: RuntimeContext, client: Any, file_server: FileServer, user: str
) -> None:
    file_server.files = {"/run": b"#!/bin/sh\necho it ran > $MESOS_SANDBOX/out && cat $MESOS_SANDBOX/out\n"}
    async with opened(context) as driver:
        # As Marathon says it: the folder would be an anonymous volume without artefacts.
        wanted = {"User": user, "Volumes": {docker_sandbox.SANDBOX: {}}}
        artefact = {"uri": file_server.url("/run"), "executable": True}
        one = launch_with(context, "$MESOS_SANDBOX/run", artefact, **wanted)
        await driver.runtime.start(one)
        assert (await driver.exit(one.task)).code == 0
        assert b"".join(
            [chunk async for chunk in driver.runtime.logs(one.task, "stdout", follow=False, tail=None)]
        ) == (b"it ran\n")
        messages = [report.message for report in driver.reports() if report.phase is Phase.PREPARING]
        assert messages == [f"fetching {file_server.url('/run')}"]
        assert stat.S_IMODE(one.directory.stat().st_mode) == 0o700
        await driver.runtime.remove(one.task)
        await eventually(lambda: not os.path.exists(one.directory), "the folder is removed")


async def test_a_container_without_its_artefacts_is_not_made(
    context: RuntimeContext, client: Any, file_server: FileServer
) -> None:
    async with opened(context) as driver:
        one = launch_with(context, "true", {"uri": file_server.url("/none")})
        await driver.runtime.start(one)
        ended = await driver.exit(one.task)
        assert ended.outcome is Outcome.ERROR
        assert ended.reason == f"{file_server.url('/none')} cannot be fetched: the server answers 404 Not Found"
        assert client.containers(all=True) == []


async def test_a_kill_in_the_middle_ends_it_at_once(
    context: RuntimeContext, client: Any, file_server: FileServer
) -> None:
    file_server.files, file_server.hung = {"/slow": b"slow"}, {"/slow"}
    async with opened(context) as driver:
        one = launch_with(context, "true", {"uri": file_server.url("/slow")})
        await driver.runtime.start(one)
        await eventually(lambda: file_server.asked, "it is fetched")
        await driver.runtime.signal(one.task, "SIGTERM")
        assert (await driver.exit(one.task)).outcome is Outcome.KILLED
        assert client.containers(all=True) == []
        await driver.runtime.remove(one.task)
        await eventually(lambda: not os.path.exists(one.directory), "the folder is removed")


async def test_an_agent_that_stops_in_the_middle_begins_anew(
    context: RuntimeContext, client: Any, file_server: FileServer
) -> None:
    file_server.files, file_server.hung = {"/file": b"file\n"}, {"/file"}
    one = launch_with(context, "cat $MESOS_SANDBOX/file; sleep 1000", {"uri": file_server.url("/file")})
    async with opened(context) as driver:
        await driver.runtime.start(one)
        await eventually(lambda: file_server.asked, "it is fetched")
    file_server.hung.clear()
    async with opened(context) as driver:
        await asyncio.gather(driver.runtime.start(one), driver.runtime.start(one))
        await driver.phase(one.task, Phase.RUNNING)
    async with opened(context) as driver:
        await driver.runtime.start(one)
        await driver.phase(one.task, Phase.RUNNING)
    assert len(client.containers(all=True)) == 1
    assert file_server.statuses("/file") == [200, 200]


def test_sandboxes_that_were_left_behind_are_removed(context: RuntimeContext) -> None:
    now_s = time.time()
    old, used = context.tasks / "old", context.tasks / "used"
    for directory in (old, used):
        part = docker_sandbox.begin(docker_sandbox.path_of(directory, 1))
        assert part is not None
        (part / "file").write_bytes(b"file")
    docker_sandbox.finish(docker_sandbox.path_of(used, 1))
    docker_sandbox.prune(context.tasks, {"used"}, now_s)
    assert old.exists()
    docker_sandbox.prune(context.tasks, {"used"}, now_s + docker_sandbox.ABANDONED_AFTER_S + 60)
    assert not old.exists()
    assert (docker_sandbox.path_of(used, 1) / "file").exists()
    assert docker_sandbox.begin(docker_sandbox.path_of(used, 1)) is None

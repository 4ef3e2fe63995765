"""The docker runtime against a real engine: what its tasks do and how they end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import Any

import pytest
from docker_driver import gone, launch, opened
from engines import Engine, wait_until

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


async def test_runs_a_container_and_tells_how_it_ended(context: RuntimeContext) -> None:
    async with opened(context) as driver:
        assert await driver.kind(Snapshot) == Snapshot(runtime="docker", reports=())
        for code, outcome in ((0, Outcome.FINISHED), (3, Outcome.FAILED)):
            one = launch(context, ["sh", "-c", f"exit {code}"])
            await driver.runtime.start(one)
            ended = await driver.phase(one.task, Phase.ENDED)
            assert ended.exit is not None
            assert (ended.exit.outcome, ended.exit.code, ended.exit.signal) == (outcome, code, None)
            assert driver.phases(one.task) == [Phase.STARTING, Phase.RUNNING, Phase.ENDED]


async def test_a_running_task_has_its_container_id_and_addresses(context: RuntimeContext, client: Any) -> None:
    async with opened(context) as driver:
        one = launch(context)
        await driver.runtime.start(one)
        running = await driver.phase(one.task, Phase.RUNNING)
        inspected = client.inspect_container(f"orlop-{one.task}")
        assert running.external_id == inspected["Id"]
        assert running.addresses == (inspected["NetworkSettings"]["IPAddress"],)


async def test_signals_reach_the_task(context: RuntimeContext) -> None:
    async with opened(context) as driver:
        one = launch(context, ["sh", "-c", "trap 'exit 7' TERM; echo set; while :; do sleep 0.1; done"])
        two = launch(context)
        for each in (one, two):
            await driver.runtime.start(each)
            await driver.phase(each.task, Phase.RUNNING)
        async for _line in driver.runtime.logs(one.task, "stdout", follow=True, tail=None):
            break  # the trap is set
        await driver.runtime.signal(one.task, "SIGTERM")
        await driver.runtime.kill(two.task)
        await driver.runtime.kill("unknown")
        first = await driver.phase(one.task, Phase.ENDED)
        second = await driver.phase(two.task, Phase.ENDED)
        assert first.exit is not None
        assert first.exit.code == 7
        assert second.exit is not None
        assert (second.exit.code, second.exit.signal, second.exit.reason) == (None, 9, "ended by SIGKILL")


async def test_an_end_of_which_the_event_tells_all_needs_no_inspection(
    context: RuntimeContext, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(context) as driver:
        one = launch(context, payload={"HostConfig": {"NetworkMode": "host"}})
        two = launch(context, ["sh", "-c", "exit 4"], payload={"HostConfig": {"NetworkMode": "host"}})

        def refuse(*_: object) -> None:
            raise AssertionError("an inspection")

        monkeypatch.setattr(driver.runtime._engine.client, "inspect_container", refuse)
        for each in (one, two):
            await driver.runtime.start(each)
            await driver.phase(each.task, Phase.RUNNING)
        os.kill(client.inspect_container(f"orlop-{one.task}")["State"]["Pid"], signal.SIGKILL)
        killed, ended = [await driver.phase(each.task, Phase.ENDED) for each in (one, two)]
        assert killed.exit is not None
        assert (killed.exit.outcome, killed.exit.signal) == (Outcome.FAILED, 9)
        assert ended.exit is not None
        assert (ended.exit.outcome, ended.exit.code) == (Outcome.FAILED, 4)
        assert driver.phases(two.task) == [Phase.STARTING, Phase.RUNNING, Phase.ENDED]


async def test_a_label_is_not_taken_for_the_exit_code(context: RuntimeContext) -> None:
    async with opened(context) as driver:
        one = launch(context, ["sh", "-c", "exit 5"], payload={"Labels": {"exitCode": "3"}})
        await driver.runtime.start(one)
        ended = await driver.phase(one.task, Phase.ENDED)
        assert ended.exit is not None
        assert ended.exit.code == 5


async def test_kill_ends_even_what_is_paused_or_to_be_restarted(context: RuntimeContext, client: Any) -> None:
    async with opened(context) as driver:
        paused = launch(context)
        always = launch(context, payload={"HostConfig": {"RestartPolicy": {"Name": "always"}}})
        for each in (paused, always):
            await driver.runtime.start(each)
            await driver.phase(each.task, Phase.RUNNING)
        client.pause(f"orlop-{paused.task}")
        for each in (paused, always):
            await driver.runtime.kill(each.task)
            ended = await driver.phase(each.task, Phase.ENDED)
            assert ended.exit is not None
            assert ended.exit.signal == 9


async def test_an_engines_own_restart_is_no_end(context: RuntimeContext) -> None:
    async with opened(context) as driver:
        one = launch(
            context,
            ["sh", "-c", "test -e /again && exec sleep 1000; touch /again; exit 3"],
            payload={"HostConfig": {"RestartPolicy": {"Name": "on-failure"}}},
        )
        await driver.runtime.start(one)
        await driver.until(lambda event: isinstance(event, Report) and "engine restarts it" in event.message)
        restarted = len(driver.events)
        await driver.phase(one.task, Phase.RUNNING, restarted)
        assert Phase.ENDED not in driver.phases(one.task)


async def test_killing_a_container_that_was_never_started(context: RuntimeContext, client: Any) -> None:
    made = launch(context)
    creation = docker_container.creation_of(made, context)
    client.create_container_from_config(creation.body, creation.name)
    async with opened(context) as driver:
        await driver.runtime.kill(made.task)
        ended = await driver.phase(made.task, Phase.ENDED)
        assert ended.exit is not None
        assert ended.exit.outcome is Outcome.KILLED
        await gone(client, creation.name)


async def test_unknown_members_of_the_payload_reach_the_engine(context: RuntimeContext, client: Any) -> None:
    payload = {
        "HostConfig": {"MaskedPaths": ["/proc/nothing"], "ReadonlyPaths": [], "NoSuchMember": {"a": 1}},
        "OnBuild": ["RUN true"],
        "Labels": {"own": "label"},
    }
    async with opened(context) as driver:
        one = launch(context, payload=payload, resources=Resources(cpus=0.5, mem="32MiB"))
        await driver.runtime.start(one)
        await driver.phase(one.task, Phase.RUNNING)
    inspected = client.inspect_container(f"orlop-{one.task}")
    assert inspected["HostConfig"]["MaskedPaths"] == ["/proc/nothing"]
    assert inspected["HostConfig"]["ReadonlyPaths"] == []
    assert inspected["Config"]["OnBuild"] == ["RUN true"]
    assert inspected["Config"]["Labels"] == {
        "own": "label",
        "orlop.cluster": "c1",
        "orlop.node": context.node_id,
        "orlop.task": one.task,
        "orlop.incarnation": "1",
        "orlop.output": "kept",
    }
    assert inspected["HostConfig"]["Memory"] == 32 * 2**20
    assert inspected["HostConfig"]["CpuShares"] == 512
    assert inspected["HostConfig"]["LogConfig"]["Config"] == {"max-size": "10000000", "max-file": "2"}


async def test_ports_are_reached_from_outside(context: RuntimeContext, engine: Engine) -> None:
    fixed, same = 31001, 31002
    command = ["sh", "-c", f"mkdir /www; echo hello >/www/index.html; httpd -p 80 -h /www; httpd -f -p {same} -h /www"]
    requests = (PortRequest(container=80), PortRequest(protocol="udp,tcp"))
    async with opened(context) as driver:
        one = launch(context, command, ports=requests, host_ports=(fixed, same))
        await driver.runtime.start(one)
        await driver.phase(one.task, Phase.RUNNING)
        for port in (fixed, same):
            body = await asyncio.to_thread(wait_until, lambda port=port: fetch(engine.address, port), "an answer")
            assert body.endswith(b"hello\n")


def fetch(host: str, port: int) -> bytes:
    try:
        with socket.create_connection((host, port), 5) as connection:
            connection.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError:
        return b""

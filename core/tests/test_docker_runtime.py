"""The docker runtime against a real engine; what it decides without one is tested in test_docker_container.py."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import docker.errors
import pytest
from engines import Engine, wait_until

from orlop.agent.runtimes import docker_container
from orlop.agent.runtimes.docker import DockerRuntime
from orlop.agent.runtimes.interface import (
    Launch,
    Output,
    Phase,
    Report,
    RuntimeContext,
    RuntimeEvent,
    Snapshot,
    Unavailable,
    UnknownTask,
)
from orlop.model.messages import Assignment
from orlop.model.resources import Resources
from orlop.model.streams import CommandRequest
from orlop.model.tasks import Desired, Outcome, PortRequest, Spec

# docker-py leaves a socket to the garbage collector when an engine goes away under it
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

WITHIN_S = 60.0
SLEEP = ["sleep", "1000"]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[docker.APIClient]:
    with contextlib.closing(engine.client()) as client:
        yield client


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

    async def kind(self, kind: type, since: int = 0) -> Any:
        return await self.until(lambda event: isinstance(event, kind), since)

    def reports(self) -> list[Report]:
        return [event for event in self.events if isinstance(event, Report)]

    def phases(self, task: str) -> list[Phase]:
        return [report.phase for report in self.reports() if report.task == task]


@pytest.fixture
def context(engine: Engine, tmp_path: Path) -> RuntimeContext:
    return RuntimeContext(
        cluster_id="c1", node_id=f"node-{next(_numbers)}", data=tmp_path, tasks=tmp_path, docker=engine.url
    )


@contextlib.asynccontextmanager
async def opened(context: RuntimeContext) -> AsyncIterator[Driver]:
    driver = Driver(DockerRuntime(context))
    await driver.runtime.open(driver.hear)
    try:
        yield driver
    finally:
        await driver.runtime.close()


@pytest.fixture(autouse=True)
def _no_containers_left(engine: Engine) -> Iterator[None]:
    yield
    if not engine.running:
        engine.start()
    engine.clear()
    gc.collect()  # here, where what it may find of docker-py is not an error


def launch(context: RuntimeContext, command: list[str] | None = None, **options: Any) -> Launch:
    payload = {"Image": "busybox:latest", "StopTimeout": 1, "Cmd": command or SLEEP, **options.pop("payload", {})}
    ports = options.pop("host_ports", ())
    environment = options.pop("environment", {})
    assignment = Assignment(
        task=options.pop("task", f"t{next(_numbers)}"),
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


async def collect(output: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in output])


async def test_environment_lies_under_the_payloads(context: RuntimeContext) -> None:
    async with opened(context) as driver:
        one = launch(
            context,
            ["sh", "-c", "echo $A $B $C; echo to stderr >&2"],
            payload={"Env": ["A=payload", "C=own=equals"]},
            environment={"A": "control", "B": "control"},
        )
        await driver.runtime.start(one)
        await driver.phase(one.task, Phase.ENDED)
        logs = driver.runtime.logs
        assert await collect(logs(one.task, "stdout", follow=False, tail=None)) == b"payload control own=equals\n"
        assert await collect(logs(one.task, "stderr", follow=True, tail=None)) == b"to stderr\n"


async def test_logs_tail_follow_and_outlive_the_removal(context: RuntimeContext) -> None:
    async with opened(context) as driver:
        one = launch(context, ["sh", "-c", "for i in 1 2 3; do echo $i; done; read line; echo end"])
        one = launch(
            context, ["sh", "-c", "echo 1; echo 2; echo 3; trap 'echo end; exit' TERM; while :; do sleep 0.1; done"]
        )
        await driver.runtime.start(one)
        await driver.phase(one.task, Phase.RUNNING)
        seen = b""
        async for chunk in driver.runtime.logs(one.task, "stdout", follow=True, tail=None):
            seen += chunk
            if seen.endswith(b"3\n"):
                await driver.runtime.signal(one.task, "SIGTERM")
        assert seen == b"1\n2\n3\nend\n"
        await driver.phase(one.task, Phase.ENDED)
        await driver.runtime.remove(one.task)
        assert await collect(driver.runtime.logs(one.task, "stdout", follow=False, tail=2)) == b"3\nend\n"
        with pytest.raises(UnknownTask):
            await collect(driver.runtime.logs("unknown", "stdout", follow=False, tail=None))


async def test_an_abandoned_log_reader_frees_its_thread(context: RuntimeContext) -> None:
    async with opened(context) as driver:
        one = launch(context, ["sh", "-c", "echo 1; exec sleep 1000"])
        await driver.runtime.start(one)
        await driver.phase(one.task, Phase.RUNNING)
        for _ in range(40):  # more than there are threads
            output = driver.runtime.logs(one.task, "stdout", follow=True, tail=None)
            async with asyncio.timeout(WITHIN_S):
                assert await anext(output) == b"1\n"
            waiting = asyncio.ensure_future(anext(output))
            await asyncio.sleep(0)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await waiting


async def test_commands_beside_a_task(context: RuntimeContext, client: Any) -> None:
    async with opened(context) as driver:
        one = launch(context)
        await driver.runtime.start(one)
        await driver.phase(one.task, Phase.RUNNING)
        run = driver.runtime.run_command
        code, output = await run(one.task, 'echo "a b"; echo c >&2; exit 5', 30)
        assert (code, sorted(output.splitlines())) == (5, ["a b", "c"])  # two streams, in either order
        code, output = await run(one.task, "yes | head -c 100000", 30)
        assert (code, len(output)) == (0, 4096)
        with pytest.raises(TimeoutError):
            await run(one.task, "sleep 987 & sleep 987", 1)

        def none_left() -> bool:
            listing = client.top(f"orlop-{one.task}")["Processes"]
            return not any("987" in " ".join(process) for process in listing)

        await asyncio.to_thread(wait_until, none_left, "the command and its children to be killed")
        with pytest.raises(UnknownTask):
            await run("unknown", "true", 1)


async def output_of(execution: Any) -> dict[Output, bytes]:
    found = dict.fromkeys(Output, b"")
    async for kind, data in execution.output():
        found[kind] += data
    return found


async def test_commands_that_somebody_talks_to(context: RuntimeContext) -> None:
    async with opened(context) as driver, asyncio.timeout(WITHIN_S):
        one = launch(context)
        await driver.runtime.start(one)
        await driver.phase(one.task, Phase.RUNNING)

        async def run(*words: str, **size: int) -> Any:
            return await driver.runtime.execute(CommandRequest(task=one.task, runtime="docker", words=words, **size))

        execution = await run("sh", "-c", "echo a; echo b >&2; exit 6")
        assert await output_of(execution) == {Output.OUTPUT: b"a\n", Output.ERROR: b"b\n"}
        assert await execution.result() == 6
        await execution.close()

        data = bytes(range(256)) * 8_000
        execution = await run("sh", "-c", "cat; echo and then")

        async def give() -> None:
            for start in range(0, len(data), 50_000):
                await execution.write(data[start : start + 50_000])
            await execution.end_input()

        giving = asyncio.create_task(give())
        assert (await output_of(execution))[Output.OUTPUT] == data + b"and then\n"
        assert await execution.result() == 0
        await giving
        await execution.close()

        execution = await run("sh", rows=30, columns=100)
        await execution.write(b"stty size; exit 4\n")
        assert b"30 100" in (await output_of(execution))[Output.OUTPUT]
        assert await execution.result() == 4
        await execution.close()

        execution = await run("nosuchprogram")
        assert b"nosuchprogram" in (await output_of(execution))[Output.OUTPUT]
        assert await execution.result() in (126, 127)
        await execution.close()
        with pytest.raises(UnknownTask):
            await driver.runtime.execute(CommandRequest(task="unknown", runtime="docker", words=("true",)))


async def test_starting_again_adopts(context: RuntimeContext, client: Any) -> None:
    async with opened(context) as driver:
        one = launch(context)
        await asyncio.gather(driver.runtime.start(one), driver.runtime.start(one))
        first = await driver.phase(one.task, Phase.RUNNING)
        mark = len(driver.events)
        await driver.runtime.start(one)
        assert (await driver.phase(one.task, Phase.RUNNING, mark)).external_id == first.external_id
        assert len(client.containers(all=True)) == 1


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
        for _ in range(4):
            one = launch(context, ["true"])
            await driver.runtime.start(one)
            await driver.phase(one.task, Phase.ENDED)
            await driver.runtime.remove(one.task)
            await gone(client, f"orlop-{one.task}")

        def two_left() -> bool:
            return len(client.containers(all=True)) == 2

        await asyncio.to_thread(wait_until, two_left, "two kept containers")
    async with opened(context) as second:
        assert await second.kind(Snapshot) == Snapshot(runtime="docker", reports=())


@pytest.fixture
def hanging(engine: Engine) -> Iterator[Callable[[], None]]:
    """Makes the engine hang, at the latest until the test's end."""
    yield engine.hang
    engine.go_on()


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

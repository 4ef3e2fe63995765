"""The docker runtime against a real engine: environment, output, commands beside a task."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from docker_driver import WITHIN_S, collect, launch, opened
from engines import wait_until

from orlop.agent.runtimes.interface import (
    Output,
    Phase,
    RuntimeContext,
    UnknownTask,
)
from orlop.model.streams import CommandRequest

# docker-py leaves a socket to the garbage collector when an engine goes away under it
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


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

"""The process runtime with real processes: who may die, and what goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import process_agent
import pytest
from process_agent import Agent, expect_nothing, is_alive, read, run, wait_until

from orlop.agent.runtimes.interface import (
    RuntimeContext,
    Snapshot,
    Unavailable,
)
from orlop.model.tasks import Outcome

AGENT_PROGRAM = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from process_agent import Agent
from orlop.agent.runtimes.interface import RuntimeContext

async def main():
    data, tasks, node_id = sys.argv[1:]
    context = RuntimeContext(cluster_id="c1", node_id=node_id, data=Path(data), tasks=Path(tasks))
    async with Agent(context) as agent:
        await agent.start("stays", "echo $$; sleep 1000")
        await agent.start("ends", "read -r code < " + str(Path(tasks).parent / "gate") + "; exit $code")
        await agent.running("stays")
        await agent.running("ends")
        print("ready", flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


def test_tasks_and_exit_codes_outlive_a_killed_agent(context: RuntimeContext) -> None:
    gate = context.data.parent / "gate"
    os.mkfifo(gate)
    program = AGENT_PROGRAM.format(folder=str(Path(process_agent.__file__).parent))
    command = [sys.executable, "-c", program, str(context.data), str(context.tasks), context.node_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as agent_process:
        assert agent_process.stdout is not None
        try:
            assert agent_process.stdout.readline() == b"ready\n"
        finally:
            agent_process.kill()
    said = asyncio.run(wait_until((context.tasks / "stays" / "stdout").read_text, "it tells its number"))
    pid = int(said)
    assert is_alive(pid)
    gate.write_text("42\n")

    async def story(agent: Agent) -> None:
        assert await agent.running("stays") == pid
        assert (await agent.ended("ends")).code == 42
        await agent.start("stays", "echo again; sleep 1000")
        assert await agent.running("stays") == pid
        assert agent.output("stays") == f"{pid}\n"

    run(context, story)


def test_tasks_outlive_a_killed_supervisor_and_a_new_one_is_started(context: RuntimeContext) -> None:
    async def story(agent: Agent) -> None:
        await agent.start("a", "sleep 1000")
        pid = await agent.running("a")
        first = agent.supervisor()
        agent.events.clear()
        os.kill(first, signal.SIGKILL)
        await wait_until(lambda: any(isinstance(event, Snapshot) for event in agent.events), "a new snapshot")
        assert await agent.running("a") == pid
        assert agent.supervisor() != first
        await agent.start("b", "exit 6")
        assert (await agent.ended("b")).code == 6
        await agent.runtime.kill("a")
        ended = await agent.ended("a")
        assert (ended.outcome, ended.code) == (Outcome.LOST, None)

    run(context, story)


def test_what_was_asked_while_the_supervisor_was_away_is_asked_again(context: RuntimeContext) -> None:
    async def story(agent: Agent) -> None:
        await agent.start("killed", "sleep 1000")
        await agent.start("done", "exit 0")
        await agent.running("killed")
        await agent.ended("done")
        os.kill(agent.supervisor(), signal.SIGKILL)
        await agent.runtime.kill("killed")
        await agent.runtime.remove("done")
        await agent.start("new", "exit 8")
        assert (await agent.ended("new")).code == 8
        assert (await agent.ended("killed")).outcome is Outcome.LOST
        await agent.runtime.remove("killed")
        await agent.runtime.remove("new")
        await wait_until(lambda: not agent.runtime._forgets, "all is forgotten")

    run(context, story)
    run(context, expect_nothing)


def test_a_supervisor_of_another_version_is_replaced_in_place(
    context: RuntimeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def first_story(agent: Agent) -> None:
        await agent.start("a", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done")
        await wait_until(lambda: agent.output("a"), "it is ready")

    run(context, first_story)
    monkeypatch.setattr("orlop.agent.supervisor_client.source_version", lambda _: "another")

    async def second_story(agent: Agent) -> None:
        supervisor = agent.supervisor()
        await wait_until(lambda: sum(isinstance(event, Snapshot) for event in agent.events) == 2, "it is back")
        assert agent.supervisor() == supervisor
        assert b'"version": "another"' in read(Path(f"/proc/{supervisor}/cmdline"))
        await agent.running("a")
        await agent.runtime.signal("a", "SIGTERM")
        assert (await agent.ended("a")).code == 5
        assert not any(isinstance(event, Unavailable) for event in agent.events)

    run(context, second_story)


def test_a_supervisor_that_cannot_start_is_told_and_tried_again(context: RuntimeContext) -> None:
    context.data.mkdir()
    path = context.data / "supervisor.journal"
    path.write_text('{"v":99}\n')

    async def story(agent: Agent) -> None:
        assert isinstance(agent.events[0], Unavailable)
        assert "the journal has version 99" in agent.events[0].reason
        await agent.start("a", "exit 2")
        path.unlink()
        assert (await agent.ended("a")).code == 2

    run(context, story)

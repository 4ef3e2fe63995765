"""The process runtime with real processes, under a real supervisor: a task's life."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import stat
import sys
from typing import Any

import pytest
from process_agent import Agent, expect_nothing, is_alive, run, wait_until

from orlop.agent.cgroups import ControlGroups, NoControlGroups
from orlop.agent.runtimes import process_folders, process_preparing
from orlop.agent.runtimes.interface import (
    Launch,
    Phase,
    Report,
    RuntimeContext,
    Snapshot,
)
from orlop.agent.runtimes.process_payload import parse_payload
from orlop.model.resources import Resources
from orlop.model.tasks import Outcome

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


def test_a_task_runs_in_its_folder_with_its_environment_and_ends(context: RuntimeContext) -> None:
    async def story(agent: Agent) -> None:
        assert agent.events == [Snapshot(runtime="process", reports=())]
        script = 'echo "$PORT0 $FRUIT $MESOS_SANDBOX $LANG $ORLOP_TASK"; pwd; exit 3'
        payload = {"command": script, "environment": {"FRUIT": "plum"}}
        await agent.start("a", payload, environment={"PORT0": "31000", "FRUIT": "apple"})
        ended = await agent.ended("a")
        assert (ended.outcome, ended.code, ended.signal) == (Outcome.FAILED, 3, None)
        assert ended.reason == "exited with code 3"
        work = context.tasks / "a" / "work"
        assert agent.output("a") == f"31000 plum {work} C.UTF-8 a\n{work}\n"
        phases = [event.phase for event in agent.events if isinstance(event, Report)]
        assert phases == sorted(phases, key=list(Phase).index)
        assert {Phase.PREPARING, Phase.ENDED} <= set(phases)

    run(context, story)


def test_files_for_its_output_are_there_before_anything_of_a_task_runs(context: RuntimeContext) -> None:
    launch = Agent(context).launch("a", "true")
    request = process_folders.prepare(launch, parse_payload({"command": "true"}), None, process_folders.find_user)
    for stream in ("stdout", "stderr"):
        made = os.stat(request[stream])
        assert (made.st_size, stat.S_IMODE(made.st_mode)) == (0, 0o640)


def test_ends_are_told_apart(context: RuntimeContext) -> None:
    async def story(agent: Agent) -> None:
        await agent.start("fine", {"arguments": ["true"]})
        await agent.start("missing", {"arguments": ["/no/such/program"]})
        await agent.start("place", {"command": "true", "directory": "no/such/place"})
        await agent.start("user", {"command": "true", "user": "nosuchuser"})
        await agent.start("payload", {"command": 5})
        await agent.start("signal", {"command": "kill -9 $$"})
        assert (await agent.ended("fine")).outcome is Outcome.FINISHED
        assert (await agent.ended("signal")).signal == 9
        reasons = {}
        for task in ("missing", "place", "user", "payload"):
            ended = await agent.ended(task)
            assert (ended.outcome, ended.code) == (Outcome.ERROR, None)
            reasons[task] = ended.reason
        assert reasons["missing"] == "no such file: /no/such/program"
        assert "cannot enter the directory" in reasons["place"]
        assert reasons["user"] == "payload.user: there is no user 'nosuchuser' on this node"
        assert reasons["payload"] == "payload.command: expected text, got 5"

    run(context, story)


def test_many_that_start_at_once_start_once_each_whatever_happens_to_one(
    context: RuntimeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = process_preparing.prepare

    def prepare_or_fail(launch: Launch, *others: Any) -> Any:
        if launch.task == "t7":
            raise RuntimeError("a bug")
        return prepare(launch, *others)

    monkeypatch.setattr(process_preparing, "prepare", prepare_or_fail)

    async def story(agent: Agent) -> None:
        tasks = [f"t{number}" for number in range(2 * process_preparing.TOGETHER_MAX + 1)]
        starts = [agent.start(task, "echo started; exec sleep 1000") for task in tasks + tasks]
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        assert [outcome for outcome in outcomes if outcome is not None] == [outcomes[tasks.index("t7")]]
        assert isinstance(outcomes[7], RuntimeError)
        tasks.remove("t7")
        pids = [await agent.running(task) for task in tasks]
        assert len(set(pids)) == len(tasks)
        for task in tasks:
            await wait_until(lambda task=task: agent.output(task) == "started\n", "it has started once")

    run(context, story)


def test_signals_kills_and_unknown_tasks(context: RuntimeContext) -> None:
    async def story(agent: Agent) -> None:
        for task in ("polite", "killed"):
            await agent.start(task, "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done")
            await wait_until(lambda task=task: agent.output(task), "it is ready")
            await agent.running(task)
        await agent.runtime.signal("polite", "SIGTERM")
        await agent.runtime.kill("killed")
        assert (await agent.ended("polite")).code == 9
        ended = await agent.ended("killed")
        assert (ended.outcome, ended.code, ended.signal) == (Outcome.FAILED, None, signal.SIGKILL)
        for task in ("killed", "unknown"):
            await agent.runtime.signal(task, "SIGTERM")
            await agent.runtime.kill(task)
        await agent.runtime.remove("unknown")

    run(context, story)


def test_a_kill_overtakes_a_start(context: RuntimeContext) -> None:
    async def story(agent: Agent) -> None:
        starting = asyncio.create_task(agent.start("a", "echo ran; sleep 1000"))
        await asyncio.sleep(0)
        await agent.runtime.kill("a")
        await starting
        ended = await agent.ended("a")
        assert (ended.outcome, ended.signal) == (Outcome.FAILED, signal.SIGKILL)
        assert agent.output("a") == ""

    run(context, story)


def test_starting_twice_starts_once_and_the_next_incarnation_goes_on(context: RuntimeContext) -> None:
    async def story(agent: Agent) -> None:
        await asyncio.gather(*(agent.start("a", "echo started; sleep 1000") for _ in range(3)))
        pid = await agent.running("a")
        await agent.start("a", "echo started; sleep 1000")
        await wait_until(lambda: agent.output("a"), "it speaks")
        assert await agent.running("a") == pid
        await agent.runtime.kill("a")
        await agent.ended("a")
        assert agent.output("a") == "started\n"
        await agent.start("a", "echo again", incarnation=2)
        assert (await agent.ended("a", incarnation=2)).code == 0
        assert agent.output("a") == "started\nagain\n"
        await agent.runtime.remove("a")

    run(context, story)
    run(context, expect_nothing)


def test_a_hundred_starts_at_once(context: RuntimeContext) -> None:
    async def story(agent: Agent) -> None:
        await asyncio.gather(*(agent.start(f"t{n}", {"arguments": ["sleep", "1000"]}) for n in range(100)))
        pids = {await agent.running(f"t{n}") for n in range(100)}
        assert len(pids) == 100
        await asyncio.gather(*(agent.runtime.kill(f"t{n}") for n in range(100)))
        for n in range(100):
            assert (await agent.ended(f"t{n}")).signal == signal.SIGKILL

    run(context, story)


@needs_root
def test_a_task_runs_as_its_user_and_cannot_touch_what_is_the_nodes(context: RuntimeContext) -> None:
    nobody = pwd.getpwnam("nobody")

    async def story(agent: Agent) -> None:
        script = "id -u; id -g; id -G; echo mine > file; pwd; cat ../process.json || touch ../x || echo kept out"
        await agent.start("a", {"command": script, "user": "nobody"})
        assert (await agent.ended("a")).code == 0
        work = context.tasks / "a" / "work"
        groups = " ".join(map(str, os.getgrouplist("nobody", nobody.pw_gid)))
        assert agent.output("a") == f"{nobody.pw_uid}\n{nobody.pw_gid}\n{groups}\n{work}\nkept out\n"
        assert (work / "file").stat().st_uid == nobody.pw_uid
        assert not (context.tasks / "a" / "x").exists()
        await agent.start("number", {"command": "id -u", "user": str(nobody.pw_uid)})
        await agent.ended("number")
        assert agent.output("number") == f"{nobody.pw_uid}\n"

    run(context, story)


def test_only_root_may_run_a_task_as_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: pwd.getpwnam("nobody").pw_uid)
    assert process_folders.find_user("nobody")[0] is None
    with pytest.raises(process_folders.CannotPrepare, match="agent is not root, so it cannot run a task as 'root'"):
        process_folders.find_user("root")


def test_beyond_its_memory_a_task_is_killed_and_that_is_the_reason(context: RuntimeContext) -> None:
    async def story(agent: Agent) -> None:
        if agent.runtime._control_groups is None:
            pytest.skip("control groups cannot be made here")
        hungry = "data = b''\nwhile True: data += bytes(1 << 20)"
        payload = {"arguments": [sys.executable, "-I", "-S", "-c", hungry]}
        await agent.start("a", payload, resources=Resources(cpus=0.5, mem="32MiB"))
        ended = await agent.ended("a")
        assert (ended.outcome, ended.signal) == (Outcome.FAILED, signal.SIGKILL)
        assert ended.reason.startswith("out of memory: ")

    run(context, story)


def test_without_control_groups_tasks_run_and_the_log_says_so_once(
    context: RuntimeContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(node_id: str) -> ControlGroups:
        raise NoControlGroups("no control groups are mounted")

    monkeypatch.setattr(ControlGroups, "open", refuse)

    async def story(agent: Agent) -> None:
        for task in ("a", "b"):
            await agent.start(task, "sleep 1000 & echo $!; wait", resources=Resources(cpus=1, mem="32MiB"))
            child = int(await wait_until(lambda task=task: agent.output(task), "it speaks"))
            await agent.running(task)
            await agent.runtime.kill(task)
            await agent.ended(task)
            await wait_until(lambda child=child: not is_alive(child), "its child is killed")

    run(context, story)
    said = [record.getMessage() for record in caplog.records if "without resource limits" in record.getMessage()]
    assert said == ["process tasks run without resource limits: no control groups are mounted"]

"""The process runtime with real processes, under a real supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.agent.cgroups import ControlGroups, NoControlGroups, find_hierarchies
from orlop.agent.runtimes import process, process_folders, process_preparing
from orlop.agent.runtimes.interface import (
    InvalidPayload,
    Launch,
    Phase,
    Report,
    RuntimeContext,
    RuntimeEvent,
    Snapshot,
    Unavailable,
    UnknownTask,
)
from orlop.agent.runtimes.process import ProcessRuntime, signal_number
from orlop.agent.runtimes.process_folders import FACTS, mark_removed, prune
from orlop.agent.runtimes.process_logs import LogStream
from orlop.agent.runtimes.process_payload import environment_of, parse_payload
from orlop.model.messages import Assignment
from orlop.model.resources import Resources
from orlop.model.tasks import Desired, Outcome, Spec

WITHIN_S = 30.0
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


def is_alive(pid: int) -> bool:
    """Zombies do not count."""
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def read(path: Path) -> bytes:
    return path.read_bytes()


async def wait_until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WITHIN_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {WITHIN_S:g} s: {what}"
        await asyncio.sleep(0.005)
    return found


@attrs.define
class Agent:
    """A runtime in the place of an agent, and all that it has reported."""

    context: RuntimeContext
    runtime: ProcessRuntime = attrs.field(init=False)
    events: list[RuntimeEvent] = attrs.field(factory=list)

    async def __aenter__(self) -> Agent:
        self.runtime = ProcessRuntime(self.context)
        await self.runtime.open(self.events.append)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runtime.close()

    def latest(self, task: str) -> Report | None:
        latest = None
        for event in self.events:
            if isinstance(event, Report) and event.task == task:
                latest = event
            elif isinstance(event, Snapshot):
                latest = next((report for report in event.reports if report.task == task), None)
        return latest

    async def start(self, task: str, payload: Mapping[str, Any] | str, **other: Any) -> None:
        await self.runtime.start(self.launch(task, payload, **other))

    def launch(
        self,
        task: str,
        payload: Mapping[str, Any] | str,
        incarnation: int = 1,
        environment: Mapping[str, str] | None = None,
        resources: Resources | None = None,
    ) -> Launch:
        body = {"command": payload} if isinstance(payload, str) else payload
        spec = Spec(runtime="process", payload=body, resources=resources or Resources())
        assignment = Assignment(
            task=task,
            framework="test",
            key=task,
            name=task,
            spec=spec,
            desired=Desired.RUNNING,
            incarnation=incarnation,
            environment=environment or {},
        )
        return Launch(assignment=assignment, directory=self.context.tasks / task)

    async def reaches(self, task: str, phase: Phase, incarnation: int = 1) -> Report:
        def reached() -> Report | None:
            report = self.latest(task)
            fits = report is not None and report.phase is phase and report.incarnation == incarnation
            return report if fits else None

        return await wait_until(reached, f"{task} is {phase}; it is {self.latest(task)}")

    async def running(self, task: str) -> int:
        return int((await self.reaches(task, Phase.RUNNING)).external_id)

    async def ended(self, task: str, incarnation: int = 1) -> Any:
        return (await self.reaches(task, Phase.ENDED, incarnation)).exit

    def output(self, task: str, stream: str = "stdout") -> str:
        path = self.context.tasks / task / stream
        return path.read_text() if path.exists() else ""

    def supervisor(self) -> int:
        assert self.runtime._client is not None
        return self.runtime._client.pid


@pytest.fixture
def context() -> Iterator[RuntimeContext]:
    """Below a folder that everybody may enter, unlike pytest's own."""
    root = Path(tempfile.mkdtemp(prefix="orlop-test-"))
    root.chmod(0o755)
    context = RuntimeContext(
        cluster_id="c1", node_id=f"test-{root.name}", data=root / "data", tasks=root / "tasks", log_bytes_max=100_000
    )
    try:
        yield context
        asyncio.run(clean_up(context))
    finally:
        shutil.rmtree(root)


async def clean_up(context: RuntimeContext) -> None:
    async with Agent(context) as agent:
        supervisor = agent.supervisor()
        (snapshot,) = (event for event in agent.events if isinstance(event, Snapshot))
        for report in snapshot.reports:
            await agent.runtime.kill(report.task)
            await agent.ended(report.task, report.incarnation)
    os.kill(supervisor, signal.SIGTERM)
    await wait_until(lambda: not is_alive(supervisor), "the supervisor ends")
    try:
        hierarchies = find_hierarchies(read(Path("/proc/self/mounts")).decode())
    except NoControlGroups:
        return
    for folder in hierarchies.distinct:
        node = folder / "orlop" / context.node_id
        if node.exists():
            await wait_until(lambda group=node / "_supervisor": not (group / "cgroup.procs").read_text(), "empty")
            (node / "_supervisor").rmdir()
            assert [path.name for path in node.iterdir() if path.is_dir()] == []
            node.rmdir()
            with contextlib.suppress(OSError):
                node.parent.rmdir()


def run(context: RuntimeContext, story: Callable[[Agent], Awaitable[None]]) -> None:
    async def tell() -> None:
        async with Agent(context) as agent:
            await story(agent)

    asyncio.run(tell())


# --- a task's life ---


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


async def expect_nothing(agent: Agent) -> None:
    assert agent.events == [Snapshot(runtime="process", reports=())]


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


# --- who may die ---

AGENT_PROGRAM = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from {module} import Agent
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
    program = AGENT_PROGRAM.format(folder=str(Path(__file__).parent), module=Path(__file__).stem)
    command = [sys.executable, "-c", program, str(context.data), str(context.tasks), context.node_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as agent_process:
        assert agent_process.stdout is not None
        try:
            assert agent_process.stdout.readline() == b"ready\n"
        finally:
            agent_process.kill()
    pid = int((context.tasks / "stays" / "stdout").read_text())
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


# --- output and commands ---


async def collect(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def test_output_is_read_from_its_end_and_followed_to_the_end(context: RuntimeContext) -> None:
    async def story(agent: Agent) -> None:
        gate = context.data.parent / "gate"
        os.mkfifo(gate)
        await agent.start("a", f"seq 1 1000; read -r line < {gate}; echo last; echo oops >&2")
        await wait_until(lambda: agent.output("a").endswith("1000\n"), "it has counted")
        assert await collect(agent.runtime.logs("a", "stdout", follow=False, tail=3)) == b"998\n999\n1000\n"
        assert await collect(agent.runtime.logs("a", "stdout", follow=False, tail=0)) == b""
        followed = agent.runtime.logs("a", "stdout", follow=True, tail=1)
        assert await anext(followed) == b"1000\n"
        await asyncio.to_thread(gate.write_text, "go\n")
        assert await collect(followed) == b"last\n"
        await agent.ended("a")
        everything = await collect(agent.runtime.logs("a", "stdout", follow=True, tail=None))
        assert everything == b"".join(b"%d\n" % n for n in range(1, 1001)) + b"last\n"
        await agent.runtime.remove("a")
        assert await collect(agent.runtime.logs("a", "stderr", follow=True, tail=5)) == b"oops\n"
        for unknown in ("unknown", "..", "", "a/work"):
            with pytest.raises(UnknownTask):
                agent.runtime.logs(unknown, "stdout", follow=False, tail=None)
        with pytest.raises(ValueError, match="expected stdout or stderr"):
            agent.runtime.logs("a", "work/file", follow=False, tail=None)

    run(context, story)


def test_output_stays_bounded_while_it_is_written(context: RuntimeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "ROTATE_INTERVAL_S", 0.02)

    async def story(agent: Agent) -> None:
        await agent.start("a", "i=0; while [ $i -lt 400 ]; do i=$((i+1)); seq -s ' ' 300; sleep 0.002; done; echo end")
        followed = agent.runtime.logs("a", "stdout", follow=True, tail=None)
        assert (await collect(followed)).endswith(b"300\nend\n")
        await agent.ended("a")
        folder = context.tasks / "a"
        assert (folder / "stdout.1").exists()
        assert sum(path.stat().st_size for path in folder.glob("stdout*")) < 400 * 1092
        last = await collect(agent.runtime.logs("a", "stdout", follow=False, tail=200))
        assert last.count(b"\n") <= 200
        assert last.endswith(b"300\nend\n")

    run(context, story)


def test_commands_run_beside_a_task_as_it_does(context: RuntimeContext) -> None:
    user = "nobody" if os.geteuid() == 0 else ""

    async def story(agent: Agent) -> None:
        payload = {"command": "sleep 1000", "environment": {"FRUIT": "plum"}, **({"user": user} if user else {})}
        await agent.start("a", payload)
        await agent.running("a")
        code, output = await agent.runtime.run_command("a", 'echo "$FRUIT $(pwd)"; id -un; echo no >&2; exit 3', 30)
        name = user or pwd.getpwuid(os.geteuid()).pw_name
        assert (code, output) == (3, f"plum {context.tasks}/a/work\n{name}\nno\n")
        code, output = await agent.runtime.run_command("a", "seq 1 10000; kill -9 $$", 30)
        assert code == 128 + 9
        assert output.endswith("9999\n10000\n")
        assert len(output) == 4096
        if agent.runtime._control_groups is not None:
            _, output = await agent.runtime.run_command("a", "cat /proc/self/cgroup", 30)
            assert f"/orlop/{context.node_id}/a\n" in output
        with pytest.raises(UnknownTask):
            await agent.runtime.run_command("unknown", "true", 30)

    run(context, story)


def test_a_command_that_hangs_is_killed_with_all_it_has_started(context: RuntimeContext) -> None:
    async def story(agent: Agent) -> None:
        await agent.start("a", "sleep 1000")
        await agent.running("a")
        pids = context.tasks / "a" / "work" / "pids"
        with pytest.raises(TimeoutError):
            await agent.runtime.run_command("a", "sleep 1000 & echo $! $$ > pids; wait", 0.5)
        for pid in map(int, pids.read_text().split()):
            await wait_until(lambda pid=pid: not is_alive(pid), "the command is killed")
        code, output = await agent.runtime.run_command("a", "setsid sleep 1000 & echo $!", 30)
        assert code == 0
        away = int(output)
        await agent.runtime.kill("a")
        await agent.ended("a")
        if agent.runtime._control_groups is None:
            os.kill(away, signal.SIGKILL)
        await wait_until(lambda: not is_alive(away), "it goes with its task")

    run(context, story)


def test_what_a_killed_supervisor_has_left_is_swept(context: RuntimeContext) -> None:
    async def story(agent: Agent) -> None:
        groups = agent.runtime._control_groups
        if groups is None:
            pytest.skip("control groups cannot be made here")
        await agent.start("a", "sleep 1000")
        pid = await agent.running("a")
        used = agent.runtime._entries["a"].groups
        left = groups.create("left", 1, Resources())
        other_node = ControlGroups.open(f"{context.node_id}-other")
        others = other_node.create("left", 1, Resources())
        try:
            supervisor = agent.supervisor()
            os.kill(supervisor, signal.SIGKILL)
            await wait_until(lambda: agent.supervisor() != supervisor, "there is a new supervisor")
            await wait_until(lambda: not any(map(os.path.exists, left)), "what nobody uses is removed")
            assert all(map(os.path.exists, (*used, *others)))
            assert await agent.running("a") == pid
        finally:
            for group in (*others, *other_node.supervisor()):
                os.rmdir(group)
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.dirname(group))

    run(context, story)


@settings(deadline=None)
@given(st.lists(st.text("ab\n", max_size=20)), st.integers(1, 40), st.integers(0, 12))
def test_a_stream_loses_nothing_that_is_kept_and_finds_its_last_lines(
    written: list[str], bytes_max: int, lines: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "stdout")
        path.touch()
        stream = LogStream(path)
        everything = b""
        seen = b""
        position = stream.position_of_tail(None)
        for text in written:
            with path.open("ab") as file:
                file.write(text.encode())
            everything += text.encode()
            data, position = stream.read(position)
            seen += data
            stream.rotate(bytes_max)
            old = Path(folder, "stdout.1")
            assert path.stat().st_size <= bytes_max
            assert not old.exists() or old.stat().st_size <= bytes_max
        assert seen == everything
        kept, _ = stream.read(stream.position_of_tail(None))
        assert everything.endswith(kept)
        assert len(kept) >= min(len(everything), bytes_max) - max(map(len, written), default=0)
        last, _ = stream.read(stream.position_of_tail(lines))
        expected = kept.splitlines(keepends=True)[-lines:] if lines else []
        assert last == b"".join(expected)


@settings(deadline=None)
@given(st.integers(0, 200_000), st.integers(1, 300))
def test_the_tail_of_a_long_stream_is_found_across_its_blocks(length: int, lines: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "stdout")
        path.write_bytes((b"x" * 999 + b"\n") * (length // 1000) + b"y" * (length % 1000))
        stream = LogStream(path)
        position = stream.position_of_tail(lines)
        tail = path.read_bytes()[position:]
        assert tail.splitlines(keepends=True) == path.read_bytes().splitlines(keepends=True)[-lines:]


def test_old_folders_go_oldest_first_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_folders, "ENDED_KEPT_MAX", 3)
    now_s = time.time()
    for age, name in enumerate(["newest", "new", "known", "old", "older", "oldest"]):
        (tmp_path / name / "work").mkdir(parents=True)
        (tmp_path / name / FACTS).touch()
        os.utime(tmp_path / name / FACTS, (now_s - age, now_s - age))
    (tmp_path / "docker").mkdir()
    assert [path.name for path in prune(tmp_path, {"known"}, now_s)] == ["oldest", "older"]
    mark_removed(tmp_path / "old")
    later_s = now_s + process_folders.ENDED_KEPT_S - 0.5
    os.utime(tmp_path / "old" / FACTS, (later_s, later_s))
    assert [path.name for path in prune(tmp_path, {"known"}, later_s)] == ["new"]
    assert {path.name for path in tmp_path.iterdir()} == {"newest", "known", "old", "docker"}
    assert prune(tmp_path / "missing", set(), now_s) == []


# --- payloads ---


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ([], "payload: expected an object, got an array"),
        ({}, "payload: expected either command or arguments"),
        ({"command": "x", "arguments": ["x"]}, "payload: expected either command or arguments"),
        ({"command": ""}, "payload.command: expected text that is not empty"),
        ({"command": "a\0b"}, "payload.command: expected text without NUL characters"),
        ({"command": "\ud800"}, "payload.command: expected Unicode text"),
        ({"arguments": []}, "payload.arguments: expected an array of at least one text, got an array"),
        ({"arguments": ["x", 1]}, "payload.arguments[1]: expected text, got 1"),
        ({"command": "x", "environment": {"PORT": 80}}, "payload.environment.PORT: expected text, got 80"),
        ({"command": "x", "environment": {"A=B": ""}}, "payload.environment.A=B: expected a variable's name"),
        ({"command": "x", "user": None}, "payload.user: expected text, got None"),
        ({"command": "x", "directory": {}}, "payload.directory: expected text, got an object"),
        ({"command": "x", "comand": "y"}, "payload.comand: unknown; known are command, arguments"),
        ({"command": "x", "fetch": []}, "payload.fetch: unknown"),
    ],
)  # fmt: skip
def test_a_bad_payload_is_told_with_its_path(payload: object, text: str) -> None:
    with pytest.raises(InvalidPayload) as raised:
        parse_payload(payload)
    assert str(raised.value).startswith(text)


any_text = st.text(st.characters(), max_size=6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=8,
)
members = st.sampled_from(["command", "arguments", "environment", "user", "directory"])


@settings(deadline=None)
@given(json_values | st.dictionaries(members | any_text, json_values | st.dictionaries(any_text, any_text)))
def test_any_payload_is_either_fit_to_execute_or_invalid(payload: object) -> None:
    try:
        parsed = parse_payload(payload)
    except InvalidPayload as error:
        str(error).encode()
        return
    environment = environment_of(parsed, {"PATH": "/bin"}, task="t", work=Path("/w"), home="/")
    for text in (*parsed.arguments, *environment, *environment.values(), parsed.user, parsed.directory):
        assert "\0" not in text
        text.encode()
    assert parsed.arguments[0]


def test_signals_have_names_and_numbers(caplog: pytest.LogCaptureFixture) -> None:
    assert [signal_number(name) for name in ("SIGTERM", "int", "9", " sigusr1 ")] == [15, 2, 9, 10]
    assert not caplog.records
    assert [signal_number(name) for name in ("SIGNAL", "", "999", "0", "²", "SIG_DFL")] == [15] * 6
    assert len(caplog.records) == 6

"""Commands beside process tasks that somebody talks to, and how they are moved over a stream."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import pwd
import secrets
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import waiting
from waiting import is_alive

from orlop.agent import command_service
from orlop.agent.runtimes.interface import Output, UnknownTask
from orlop.agent.runtimes.process_exec import ProcessExecution, execute_beside
from orlop.agent.runtimes.process_folders import Facts, User
from orlop.agent.stream_service import serve_stream
from orlop.agent.streams import LocalStream, StreamClosed, local_stream
from orlop.model.streams import Accepted, Channel, CommandRequest, Fault, Rejected, decode_answer, encode

WITHIN_S = 20

eventually = functools.partial(waiting.eventually, deadline_s=WITHIN_S)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


def facts(folder: Path, **members: Any) -> Facts:
    environment = {"PATH": os.environ["PATH"], "FRUIT": "plum"}
    return Facts(**{"environment": environment, "directory": str(folder), "user": None, "groups": ()} | members)


def request(*words: str, **members: Any) -> CommandRequest:
    return CommandRequest(task="t1", runtime="process", words=words, **members)


@asynccontextmanager
async def executing(folder: Path, *words: str, **members: Any) -> AsyncIterator[ProcessExecution]:
    size = {name: members.pop(name) for name in ("rows", "columns") if name in members}
    execution = await execute_beside(facts(folder, **members), request(*words, **size))
    try:
        async with asyncio.timeout(WITHIN_S):
            yield execution
    finally:
        await execution.close()


async def said(execution: ProcessExecution) -> dict[Output, bytes]:
    found = dict.fromkeys(Output, b"")
    async for kind, data in execution.output():
        found[kind] += data
    return found


async def test_output_error_and_exit_code_are_kept_apart(tmp_path: Path) -> None:
    async with executing(tmp_path, "sh", "-c", 'echo "$FRUIT $(pwd)"; echo no >&2; exit 3') as one:
        assert await said(one) == {Output.OUTPUT: f"plum {tmp_path}\n".encode(), Output.ERROR: b"no\n"}
        assert await one.result() == 3
    async with executing(tmp_path, "sh", "-c", "kill -TERM $$") as one:
        assert await said(one) == {Output.OUTPUT: b"", Output.ERROR: b""}
        assert await one.result() == 128 + 15


async def test_what_follows_the_end_of_the_input_is_not_lost(tmp_path: Path) -> None:
    data = secrets.token_bytes(5_000_000)
    async with executing(tmp_path, "sh", "-c", "cat; echo and then") as one:

        async def give() -> None:
            for start in range(0, len(data), 50_000):
                await one.write(data[start : start + 50_000])
            await one.end_input()

        giving = asyncio.create_task(give())
        assert (await said(one))[Output.OUTPUT] == data + b"and then\n"
        assert await one.result() == 0
        await giving


async def test_input_that_nobody_takes_is_no_error(tmp_path: Path) -> None:
    async with executing(tmp_path, "true") as one:
        assert await one.result() == 0
        for _ in range(20):
            await one.write(b"x" * 100_000)
        await one.end_input()


@pytest.mark.parametrize(
    ("words", "members", "code", "text"),
    [
        (("nosuchprogram",), {}, 127, "nosuchprogram cannot be run here: No such file or directory"),
        (("/etc/passwd",), {}, 126, "Permission denied"),
        (("true",), {"directory": "/nonexistent"}, 127, "No such file or directory"),
    ],
)
async def test_what_cannot_be_run_says_why(
    tmp_path: Path, words: tuple[str, ...], members: dict[str, Any], code: int, text: str
) -> None:
    async with executing(tmp_path, *words, **members) as one:
        assert text in (await said(one))[Output.ERROR].decode()
        assert await one.result() == code


async def test_what_the_command_leaves_running_is_killed_with_it(tmp_path: Path) -> None:
    async with executing(tmp_path, "sh", "-c", "sleep 1000 & echo $!; exit 1") as one:
        child = int((await said(one))[Output.OUTPUT])
        await eventually(lambda: not is_alive(child), "its child is gone")


async def test_output_ends_though_somebody_elsewhere_holds_it_open(tmp_path: Path) -> None:
    async with executing(tmp_path, "sh", "-c", "setsid sleep 1000 & echo $!; echo done") as one:
        lines = (await said(one))[Output.OUTPUT].split()
        assert lines[1:] == [b"done"]
        os.kill(int(lines[0]), 9)


async def test_a_slow_reader_gets_all_of_it(tmp_path: Path) -> None:
    count = 0
    async with executing(tmp_path, "sh", "-c", "head -c 3000000 /dev/zero; sleep 1000 &") as one:
        async for _, data in one.output():
            count += len(data)
            await asyncio.sleep(0.02)
    assert count == 3_000_000


async def test_closing_ends_the_command(tmp_path: Path) -> None:
    async with executing(tmp_path, "sh", "-c", "sleep 1000 & echo $$ $!; wait") as one:
        pids: list[int] = []
        async for _, data in one.output():
            pids = [int(pid) for pid in data.split()]
            break
        assert all(map(is_alive, pids))
    for pid in pids:
        await eventually(lambda pid=pid: not is_alive(pid), "it is gone")


async def test_a_command_that_is_closed_is_waited_for_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(40):
        async with executing(tmp_path, "sh", "-c", "echo begun; sleep 1000") as one:
            async for _ in one.output():
                break
    assert "Unknown child process" not in caplog.text


async def test_a_terminal_is_one(tmp_path: Path) -> None:
    async with executing(tmp_path, "sh", rows=30, columns=100) as one:
        got = b""
        asked = left = False
        interrupted_at = 0
        await one.write(b"tty; stty size; echo TERM=$TERM\n")
        async for kind, data in one.output():
            assert kind is Output.OUTPUT
            got += data
            if b"TERM=xterm" in got and not asked:
                asked = True
                await one.resize(50, 132)
                await one.write(b"stty size; cat\nheard\n")
            # The terminal shows what is typed, and cat says it again once it runs: then it is what is interrupted.
            if b"50 132" in got and got.count(b"heard") >= 2 and not interrupted_at:
                interrupted_at = len(got)
                await one.write(b"\x03")
            elif interrupted_at and not left and any(prompt in got[interrupted_at:] for prompt in (b"# ", b"$ ")):
                # Not together with the interrupt, which may make the shell forget what it has read.
                left = True
                await one.write(b"exit 4\n")
        assert b"/dev/pts/" in got
        assert b"30 100" in got
        assert await one.result() == 4


async def test_a_command_ignores_no_signal_because_the_agent_does(tmp_path: Path) -> None:
    """As one that a script has put into the background, or that was started with nohup."""
    numbers = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        async with executing(tmp_path, "grep", "-E", "SigIgn|SigBlk", "/proc/self/status") as one:
            blocked, ignored = (int(mask, 16) for mask in (await said(one))[Output.OUTPUT].split()[1::2])
        # The C library has two for itself, of which programs know nothing.
        known = sum(1 << (number - 1) for number in signal.valid_signals())
        assert (blocked & known, ignored & known) == (0, 0)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


async def test_the_end_of_input_ends_a_shell_on_a_terminal(tmp_path: Path) -> None:
    async with executing(tmp_path, "sh", rows=30, columns=100) as one:
        await one.end_input()
        await said(one)
        assert await one.result() == 0


@needs_root
async def test_the_command_runs_as_the_tasks_user(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    user = User(nobody.pw_uid, nobody.pw_gid, ())
    async with executing(tmp_path, "sh", "-c", "id -un; id -G", directory="/", user=user) as one:
        assert (await said(one))[Output.OUTPUT].split() == [b"nobody", str(nobody.pw_gid).encode()]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may write to."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


@needs_root
async def test_a_tasks_variables_do_not_reach_the_agents_user(open_folder: Path) -> None:
    """What LD_PRELOAD names would be loaded before the user is changed."""
    trace = open_folder / "trace"
    environment = {"PATH": os.environ["PATH"], "LD_DEBUG": "files", "LD_DEBUG_OUTPUT": str(trace), "PYTHONPATH": "/x"}
    nobody = pwd.getpwnam("nobody")
    members = {"environment": environment, "directory": "/", "user": User(nobody.pw_uid, nobody.pw_gid, ())}
    async with executing(open_folder, "/bin/true", **members) as one:
        await said(one)
        assert await one.result() == 0
    owners = {file.stat().st_uid for file in os.scandir(open_folder)}
    assert owners == {nobody.pw_uid}, "the command itself has them, and nothing before it"


# --- over a stream ---


@attrs.define
class Scripted:
    """An execution that a test leads."""

    pieces: list[tuple[Output, bytes] | Exception]
    code: int | None = 0
    forever: bool = False
    got: list[Any] = attrs.field(factory=list)
    closed: asyncio.Event = attrs.field(factory=asyncio.Event)

    async def write(self, data: bytes) -> None:
        self.got.append(data)

    async def end_input(self) -> None:
        self.got.append(None)

    async def output(self) -> AsyncIterator[tuple[Output, bytes]]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece
        if self.forever:
            await asyncio.Event().wait()

    async def result(self) -> int | None:
        return self.code

    async def resize(self, rows: int, columns: int) -> None:
        self.got.append((rows, columns))

    async def close(self) -> None:
        self.closed.set()


@attrs.define
class Runtime:
    execution: Scripted | Exception
    name: str = "process"

    async def execute(self, request: CommandRequest) -> Scripted:
        if isinstance(self.execution, Exception):
            raise self.execution
        return self.execution


@asynccontextmanager
async def talking_to(runtime: Any) -> AsyncIterator[LocalStream]:
    ours, its = local_stream()
    serving = asyncio.create_task(serve_stream(its, {"process": runtime}))
    try:
        async with asyncio.timeout(WITHIN_S):
            await ours.send(encode(request("sh")))
            yield ours
    finally:
        await ours.close()
        await serving


def frame(channel: Channel, data: bytes = b"") -> bytes:
    return bytes([channel]) + data


async def test_frames_carry_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Scripted([(Output.OUTPUT, b"x" * 100_000), (Output.ERROR, b"no")], code=5)
    async with talking_to(Runtime(one)) as stream:
        assert decode_answer(await stream.receive() or b"") == Accepted()
        output = b""
        while (got := await stream.receive()) is not None and got[0] == Channel.OUTPUT:
            assert len(got) < 70_000
            output += got[1:]
        assert output == b"x" * 100_000
        assert got == frame(Channel.ERROR, b"no")
        assert await stream.receive() == frame(Channel.ENDED, json.dumps({"code": 5}, separators=(",", ":")).encode())
        assert await stream.receive() is None
    assert one.closed.is_set()


async def test_input_its_end_and_sizes_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Scripted([], forever=True)
    async with talking_to(Runtime(one)) as stream:
        await stream.receive()
        for sent in (
            frame(Channel.INPUT, b"ls\n"),
            frame(Channel.RESIZE, b'{"rows": 5, "columns": 6}'),
            frame(Channel.RESIZE, b'{"rows": -5, "columns": 6}'),
            frame(Channel.RESIZE, b'{"rows": "5"}'),
            frame(Channel.RESIZE, b"[]"),
            frame(Channel.RESIZE, b"rubbish"),
            frame(Channel.INPUT),
            b"\xff?",
        ):
            await stream.send(sent)
        await stream.send_end()
        await eventually(lambda: len(one.got) == 4, "all of it arrives")
        assert one.got == [b"ls\n", (5, 6), None, None]
        assert not one.closed.is_set()
    assert one.closed.is_set()


async def test_a_client_that_goes_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_service, "SHOW_LIFE_S", 0.05)

    class Stuck(Scripted):
        async def write(self, data: bytes) -> None:
            await asyncio.Event().wait()

    one = Stuck([], forever=True)
    async with talking_to(Runtime(one)) as stream:
        await stream.receive()
        await stream.send(frame(Channel.INPUT, b"nobody takes this"))
        assert await stream.receive() == frame(Channel.OUTPUT), "it shows that it is there"
        await stream.close()
        await one.closed.wait()


async def test_a_runtime_that_goes_away_says_so() -> None:
    one = Scripted([(Output.OUTPUT, b"x"), ConnectionError("the engine went away")])
    async with talking_to(Runtime(one)) as stream:
        assert [await stream.receive() for _ in range(2)][1] == frame(Channel.OUTPUT, b"x")
        failed = await stream.receive()
        assert failed is not None
        assert failed[0] == Channel.FAILED
        assert json.loads(failed[1:]) == {"error": "the engine went away"}
        assert await stream.receive() is None


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (UnknownTask("t1 is not running"), Fault.NOT_FOUND),
        (ValueError("no such shell"), Fault.INVALID),
        (OSError("no more processes"), Fault.UNAVAILABLE),
    ],
)
async def test_a_command_that_cannot_begin_is_rejected(error: Exception, fault: Fault) -> None:
    async with talking_to(Runtime(error)) as stream:
        answer = decode_answer(await stream.receive() or b"")
        assert answer == Rejected(fault=fault, reason=str(error))


async def test_a_runtime_without_commands_says_so() -> None:
    async with talking_to(object()) as stream:
        answer = decode_answer(await stream.receive() or b"")
        assert isinstance(answer, Rejected)
        assert "runs no commands" in answer.reason
    with pytest.raises(StreamClosed):
        await stream.send(b"x")

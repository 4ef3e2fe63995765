"""The process runtime: output, commands beside a task, and the folders of those that have ended."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pwd
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from process_agent import Agent, is_alive, run, wait_until

from orlop.agent.cgroups import ControlGroups
from orlop.agent.runtimes import process, process_folders
from orlop.agent.runtimes.interface import (
    RuntimeContext,
    UnknownTask,
)
from orlop.agent.runtimes.outputs import EXCERPT_BYTES, Outputs
from orlop.agent.runtimes.process_folders import FACTS, mark_removed, prune
from orlop.agent.runtimes.process_logs import LogStream
from orlop.model.resources import Resources


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


def test_the_beginning_of_a_stream_outlives_its_rotations(tmp_path: Path) -> None:
    stream = LogStream(tmp_path / "stdout")
    written = b""
    for number in range(5):
        piece = b"".join(b"%d %d\n" % (number, line) for line in range(30_000))
        with (tmp_path / "stdout").open("ab") as file:
            file.write(piece)
        written += piece
        stream.rotate(200_000)
    found = stream.excerpt()
    assert (found.head, found.tail, found.left_out) == (written[:EXCERPT_BYTES], written[-EXCERPT_BYTES:], None)
    assert b"\n[... what came between is left out ...]\n" in bytes(found)


@pytest.mark.parametrize("size", [0, 1, EXCERPT_BYTES, EXCERPT_BYTES + 1, 2 * EXCERPT_BYTES, 2 * EXCERPT_BYTES + 7])
def test_an_excerpt_of_what_was_never_rotated(size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    (tmp_path / "stdout").write_bytes(data)
    found = LogStream(tmp_path / "stdout").excerpt()
    assert found.left_out == max(0, size - 2 * EXCERPT_BYTES)
    assert data.startswith(found.head)
    assert data.endswith(found.tail)
    assert len(found.head) + len(found.tail) + found.left_out == size


def test_what_is_kept_of_a_folder_that_is_gone_is_read_as_before(
    context: RuntimeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_folders, "ENDED_KEPT_MAX", 0)
    monkeypatch.setattr(process, "PRUNE_INTERVAL_S", 0.0)

    async def story(agent: Agent) -> None:
        await agent.start("a", "seq 1 5; echo oops >&2")
        await agent.ended("a")
        await agent.runtime.remove("a")
        await wait_until(lambda: not (context.tasks / "a").exists(), "its folder is gone")
        assert await collect(agent.runtime.logs("a", "stdout", follow=False, tail=2)) == b"4\n5\n"
        assert await collect(agent.runtime.logs("a", "stdout", follow=True, tail=0)) == b""
        assert await collect(agent.runtime.logs("a", "stderr", follow=False, tail=None)) == b"oops\n"

    run(context, story)


def test_housekeeping_goes_on_after_a_round_that_failed(
    context: RuntimeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_folders, "ENDED_KEPT_MAX", 0)
    monkeypatch.setattr(process, "PRUNE_INTERVAL_S", 0.0)
    monkeypatch.setattr(process, "ROTATE_INTERVAL_S", 0.02)
    failures = iter([OSError(errno.EMFILE, "no descriptors left"), ValueError("a bug")])

    def prune_later(*arguments: Any) -> list[Path]:
        if (failure := next(failures, None)) is not None:
            raise failure
        return prune(*arguments)

    monkeypatch.setattr(process, "prune", prune_later)

    async def story(agent: Agent) -> None:
        await agent.start("a", "true")
        await agent.ended("a")
        await agent.runtime.remove("a")
        await wait_until(lambda: not (context.tasks / "a").exists(), "its folder is gone")

    run(context, story)


def test_old_folders_go_oldest_first_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_folders, "ENDED_KEPT_MAX", 3)
    now_s = time.time()
    for age, name in enumerate(["newest", "new", "known", "old", "older", "oldest"]):
        (tmp_path / name / "work").mkdir(parents=True)
        (tmp_path / name / FACTS).touch()
        os.utime(tmp_path / name / FACTS, (now_s - age, now_s - age))
    (tmp_path / "docker").mkdir()
    outputs = Outputs(tmp_path.parent / "outputs")
    (tmp_path / "older" / "stdout").write_text("what it said\n")
    assert [path.name for path in prune(tmp_path, {"known"}, now_s, outputs)] == ["oldest", "older"]
    assert outputs.read("older", "stdout") == b"what it said\n"
    assert outputs.read("oldest", "stdout") == outputs.read("older", "stderr") == b""
    mark_removed(tmp_path / "old")
    later_s = now_s + process_folders.ENDED_KEPT_S - 0.5
    os.utime(tmp_path / "old" / FACTS, (later_s, later_s))
    assert [path.name for path in prune(tmp_path, {"known"}, later_s, outputs)] == ["new"]
    assert {path.name for path in tmp_path.iterdir()} == {"newest", "known", "old", "docker"}
    assert prune(tmp_path / "missing", set(), now_s, outputs) == []

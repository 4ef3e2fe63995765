"""Artefacts of process tasks, from a real server: there before the start, or the reason why not."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import pwd
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import attrs
import pytest
from file_server import FileServer
from process_agent import WITHIN_S, Agent, run, wait_until
from waiting import is_alive
from waiting import wait_until as wait_now

from orlop.agent import fetching, supervisor_client
from orlop.agent.runtimes.interface import FetchSettings, Phase, Report, RuntimeContext, Unavailable
from orlop.model.tasks import Outcome

SCRIPT = b"#!/bin/sh\nls -1A; cat inner; id -un\n"


def archive(name: str = "inner", content: bytes = b"inner\n") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as opened:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        opened.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def reports(agent: Agent) -> list[Report]:
    return [event for event in agent.events if isinstance(event, Report)]


def payload(*artefacts: dict[str, Any], command: str = "./run", **members: Any) -> dict[str, Any]:
    return {"command": command, "artefacts": list(artefacts), **members}


def allowing(context: RuntimeContext, **settings: Any) -> RuntimeContext:
    return attrs.evolve(context, fetch=FetchSettings(**settings))


def fetchers(of: int | None = None) -> list[int]:
    """Pids of the fetchers that a process has started; without one, this process."""
    parent = of or os.getpid()
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if str(fetching.PROGRAM).encode() in _command_line(pid)]


def _command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.mark.parametrize("user", ["", "nobody"])
def test_a_task_has_its_artefacts_when_it_starts(context: RuntimeContext, file_server: FileServer, user: str) -> None:
    if user and os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    file_server.files = {"/tools/run.sh": SCRIPT, "/a.tgz": archive(), "/b.tgz": archive("not-unpacked")}

    async def story(agent: Agent) -> None:
        wanted = payload(
            {"uri": file_server.url("/tools/run.sh?version=1"), "output_file": "run", "executable": True},
            {"uri": file_server.url("/a.tgz")},
            {"uri": file_server.url("/b.tgz"), "extract": False, "output_file": "deep/b.tgz"},
            **({"user": user} if user else {}),
        )
        await agent.start("t", wanted)
        assert (await agent.ended("t")).code == 0
        name = user or pwd.getpwuid(os.geteuid()).pw_name
        assert agent.output("t").split() == ["a.tgz", "deep", "inner", "run", "inner", name]
        owners = {path.owner() for path in (agent.context.tasks / "t/work").rglob("*")}
        assert owners == {name}
        preparing = [one.message for one in reports(agent) if one.phase is Phase.PREPARING]
        assert f"fetching {file_server.url('/tools/run.sh')}" in preparing

    run(context, story)
    assert fetchers() == []


def test_credentials_are_sent_and_not_shown(context: RuntimeContext, file_server: FileServer) -> None:
    async def story(agent: Agent) -> None:
        await agent.start("t", payload({"uri": file_server.url("/none?key=secret", credentials="me:secret@")}))
        ended = await agent.ended("t")
        assert ended.outcome is Outcome.ERROR
        assert ended.reason == f"{file_server.url('/none')} cannot be fetched: the server answers 404 Not Found"
        assert "secret" not in str(agent.events)

    run(context, story)
    assert file_server.authorization == ["Basic bWU6c2VjcmV0"]


def test_what_cannot_be_fetched_is_said(context: RuntimeContext, file_server: FileServer) -> None:
    file_server.files = {"/large": bytes(2000), "/short": b"short", "/bomb.gz": gzip.compress(bytes(1_000_000))}
    file_server.short.add("/short")
    expected = {
        file_server.url("/large"): "too large: a task may bring 1.465 KiB here, unpacked files included",
        file_server.url("/bomb.gz"): "too large: a task may bring 1.465 KiB here, unpacked files included",
        file_server.url("/short"): "the server ended after 5 of 6 bytes",
        "http://no-such-host.invalid/a": "its host is not known: ",
        "http://127.0.0.1:9/a": "it cannot be reached: Connection refused",
        "/etc/passwd": "this node gives no such file away: [agent] fetch_local names those that it does",
    }

    async def story(agent: Agent) -> None:
        for number, (uri, text) in enumerate(expected.items()):
            await agent.start(f"t{number}", payload({"uri": uri}))
            ended = await agent.ended(f"t{number}")
            assert ended.outcome is Outcome.ERROR
            assert ended.reason.startswith(f"{uri} cannot be fetched: {text}")
        await agent.start("t", payload({"uri": "gopher://a/b"}))
        assert (await agent.ended("t")).reason.startswith("payload.artefacts[0].uri: expected http, https, ftp, file")

    run(allowing(context, bytes_max=1500), story)


def test_a_reason_is_one_line_whatever_an_archive_holds(context: RuntimeContext, file_server: FileServer) -> None:
    file_server.files = {"/evil.tgz": archive("../\n\udcff\x1b[2J" + "evil" * 30_000)}

    async def story(agent: Agent) -> None:
        await agent.start("t", payload({"uri": file_server.url("/evil.tgz")}))
        reason = (await agent.ended("t")).reason
        assert reason.startswith(f"{file_server.url('/evil.tgz')} cannot be fetched: it is refused: ")
        assert reason.isprintable()
        assert len(reason) < 1000
        assert not (agent.context.tasks / "t/work").exists(), "what was fetched for nothing is removed"

    run(context, story)


def test_files_of_the_node_that_its_operator_allows(context: RuntimeContext) -> None:
    shared, private = context.data.parent / "shared", context.data.parent / "private"
    shared.mkdir()
    private.write_text("private")
    (shared / "here").write_text("here\n")
    (shared / "link").symlink_to(private)

    async def story(agent: Agent) -> None:
        wanted = [{"uri": f"file://{shared}/here"}, {"uri": f"{shared}/here", "output_file": "again"}]
        await agent.start("t", payload(*wanted, command="cat here again"))
        assert (await agent.ended("t")).code == 0
        assert agent.output("t") == "here\nhere\n"
        for task, uri in (("u", f"{shared}/link"), ("v", str(private)), ("w", f"file://{shared}/../private")):
            await agent.start(task, payload({"uri": uri}))
            assert "this node gives no such file away" in (await agent.ended(task)).reason

    run(allowing(context, local=(str(shared),)), story)


def test_a_server_that_hangs_is_given_up(context: RuntimeContext, file_server: FileServer) -> None:
    file_server.files, file_server.hung = {"/slow": b"slow", "/run": SCRIPT}, {"/slow"}

    async def story(agent: Agent) -> None:
        hanging = asyncio.create_task(agent.start("t", payload({"uri": file_server.url("/slow")})))
        await wait_until(fetchers, "it is fetched")
        await agent.start("beside", payload({"uri": file_server.url("/run"), "executable": True}, command="true"))
        assert (await agent.ended("beside")).code == 0
        assert agent.phase("t") is Phase.PREPARING
        reason = (await agent.ended("t")).reason
        assert reason == f"{file_server.url('/slow')} cannot be fetched: it takes longer than 3 s"
        await hanging

    run(allowing(context, timeout_s=3.0), story)
    assert fetchers() == []


def test_more_than_there_is_room_for_wait_and_say_so(
    context: RuntimeContext, file_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "TOGETHER_MAX", 1)
    file_server.files, file_server.hung = {"/slow": b"slow", "/b": b"b"}, {"/slow"}

    async def story(agent: Agent) -> None:
        first = asyncio.create_task(agent.start("a", payload({"uri": file_server.url("/slow")}, command="true")))
        await wait_until(lambda: file_server.asked, "it is fetched")
        second = asyncio.create_task(agent.start("b", payload({"uri": file_server.url("/b")}, command="true")))
        said = f"waiting to fetch {file_server.url('/b')}: 1 others are under way"
        await wait_until(lambda: (report := agent.latest("b")) and report.message == said, "it says why it waits")
        file_server.release()
        assert [(await agent.ended(task)).code for task in ("a", "b")] == [0, 0]
        await asyncio.gather(first, second)

    run(context, story)


def test_nothing_is_fetched_for_a_task_that_may_run_already(
    context: RuntimeContext, file_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_client, "LIST_TIMEOUT_S", 0.2)
    file_server.files = {"/file": b"first\n"}
    wanted = payload({"uri": file_server.url("/file")}, command="exec sleep 1000")

    async def begin(agent: Agent) -> None:
        await agent.start("t", wanted)
        pids.append(await agent.running("t"))
        pids.append(agent.supervisor())

    async def story(agent: Agent) -> None:
        starting = asyncio.create_task(agent.start("t", wanted))
        enough = 3  # attempts to reach the supervisor, while anything that is fetched would have been asked for
        await wait_until(lambda: sum(isinstance(event, Unavailable) for event in agent.events) > enough, "it hangs")
        os.kill(pids[1], signal.SIGCONT)
        assert await agent.running("t") == pids[0]
        await starting

    pids: list[int] = []
    run(context, begin)
    os.kill(pids[1], signal.SIGSTOP)
    try:
        run(context, story)
    finally:
        os.kill(pids[1], signal.SIGCONT)
    assert file_server.statuses("/file") == [200]


@pytest.mark.parametrize("how", ["signal", "kill"])
def test_a_kill_in_the_middle_ends_it_at_once(context: RuntimeContext, file_server: FileServer, how: str) -> None:
    file_server.files, file_server.hung = {"/run": SCRIPT}, {"/run"}

    async def story(agent: Agent) -> None:
        starting = asyncio.create_task(agent.start("t", payload({"uri": file_server.url("/run")})))
        await wait_until(lambda: file_server.asked, "it is fetched")
        (fetcher,) = fetchers()
        if how == "kill":
            await agent.runtime.kill("t")
        else:
            await agent.runtime.signal("t", "SIGTERM")
        assert (await agent.ended("t")).reason == "killed before it was started"
        assert not is_alive(fetcher)
        await starting
        await agent.runtime.remove("t")
        assert agent.runtime._snapshot().reports == ()

    run(context, story)


def test_a_later_incarnation_takes_over(context: RuntimeContext, file_server: FileServer) -> None:
    file_server.files, file_server.hung = {"/slow": b"slow", "/run": SCRIPT}, {"/slow"}

    async def story(agent: Agent) -> None:
        first = asyncio.create_task(agent.start("t", payload({"uri": file_server.url("/slow")})))
        await wait_until(lambda: file_server.asked, "it is fetched")
        await agent.start("t", payload({"uri": file_server.url("/run")}, command="cat run"), incarnation=2)
        assert (await agent.ended("t", incarnation=2)).code == 0
        await first
        assert fetchers() == []
        assert [report.incarnation for report in reports(agent) if report.phase is Phase.ENDED] == [2]

    run(context, story)


def test_an_agent_that_is_killed_takes_the_fetch_along_and_the_next_one_begins_anew(
    context: RuntimeContext, file_server: FileServer
) -> None:
    file_server.files, file_server.hung = {"/run": SCRIPT}, {"/run"}
    wanted = payload({"uri": file_server.url("/run"), "executable": True}, command="./run | head -1")
    program = (
        "import asyncio, sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "from process_agent import Agent\n"
        "from orlop.agent.runtimes.interface import RuntimeContext\n"
        "async def main():\n"
        f"    context = RuntimeContext(cluster_id={context.cluster_id!r}, node_id={context.node_id!r},\n"
        f"        data=Path({str(context.data)!r}), tasks=Path({str(context.tasks)!r}))\n"
        "    async with Agent(context) as agent:\n"
        f"        await agent.start('t', {wanted!r})\n"
        "asyncio.run(main())\n"
    )
    agent = subprocess.Popen([sys.executable, "-c", program])

    wait_now(lambda: file_server.asked, "it is fetched")
    (fetcher,) = fetchers(of=agent.pid)
    agent.send_signal(signal.SIGKILL)
    agent.wait(WITHIN_S)
    wait_now(lambda: not is_alive(fetcher), "the fetcher ends")
    file_server.hung.clear()

    async def story(agent: Agent) -> None:
        assert agent.latest("t") is None
        await agent.start("t", wanted)
        assert (await agent.ended("t")).code == 0
        assert agent.output("t") == "run\n"

    run(context, story)
    assert file_server.statuses("/run") == [200, 200]


def test_an_agent_that_stops_ends_the_fetch(context: RuntimeContext, file_server: FileServer) -> None:
    file_server.files, file_server.hung = {"/run": SCRIPT}, {"/run"}

    async def story(agent: Agent) -> None:
        starting = asyncio.create_task(agent.start("t", payload({"uri": file_server.url("/run")})))
        await wait_until(lambda: file_server.asked, "it is fetched")
        starting.cancel()
        await asyncio.wait([starting])
        assert starting.cancelled()
        assert fetchers() == []
        assert agent.phase("t") is Phase.PREPARING

    run(context, story)


def test_what_is_kept_is_asked_for_once_and_revalidated(context: RuntimeContext, file_server: FileServer) -> None:
    file_server.files = {"/a.tgz": archive(content=b"first\n")}
    wanted = payload({"uri": file_server.url("/a.tgz"), "cache": True}, command="ls -A; cat inner")

    async def story(agent: Agent) -> None:
        async def outputs(*tasks: str) -> set[str]:
            await asyncio.gather(*(agent.start(task, wanted) for task in tasks))
            for task in tasks:
                assert (await agent.ended(task)).code == 0
            return {agent.output(task) for task in tasks}

        assert await outputs("a", "b", "c") == {"inner\nfirst\n"}
        assert sorted(file_server.statuses("/a.tgz")) == [200, 304, 304]
        file_server.files["/a.tgz"] = archive(content=b"second\n")
        assert await outputs("d") == {"inner\nsecond\n"}
        file_server.stated = False
        file_server.files["/a.tgz"] = archive(content=b"third\n")
        assert await outputs("e") == {"inner\nthird\n"}
        assert await outputs("f") == {"inner\nthird\n"}
        assert file_server.statuses("/a.tgz")[3:] == [200, 200, 200]
        file_server.close()
        assert await outputs("g") == {"inner\nthird\n"}

    run(context, story)


def test_a_missing_file_is_not_replaced_by_what_is_kept(context: RuntimeContext, file_server: FileServer) -> None:
    file_server.files = {"/a": b"a"}
    wanted = payload({"uri": file_server.url("/a"), "cache": True}, command="cat a")

    async def story(agent: Agent) -> None:
        await agent.start("a", wanted)
        assert (await agent.ended("a")).code == 0
        file_server.files.clear()
        await agent.start("b", wanted)
        assert (await agent.ended("b")).reason.endswith("the server answers 404 Not Found")

    run(context, story)


def test_the_cache_is_bounded(context: RuntimeContext, file_server: FileServer) -> None:
    file_server.files = {f"/{name}": bytes(1000) for name in "abcd"} | {"/large": bytes(5000)}

    async def story(agent: Agent) -> None:
        async def take(task: str, name: str) -> None:
            await agent.start(task, payload({"uri": file_server.url(f"/{name}"), "cache": True}, command="true"))
            assert (await agent.ended(task)).code == 0

        for name in "abcd":
            await take(name, name)
        await take("again", "d")
        await take("anew", "a")
        await take("large", "large")

    run(allowing(context, cache_bytes_max=2500), story)
    assert file_server.statuses("/d") == [200, 304]
    assert file_server.statuses("/a") == [200, 200]
    kept = context.data / "fetched"
    assert sum(path.stat().st_size for path in kept.iterdir() if len(path.name) == 64) <= 2500
    assert not list(kept.glob("*.part"))

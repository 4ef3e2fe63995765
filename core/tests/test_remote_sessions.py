"""Sessions between servers and agents over real sockets: what breaks, and where an agent goes then."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from aiohttp import WSMsgType, web
from ports import free_port
from serving import (
    asked,
    closed,
    eventually,
    heard,
    hello,
    serving,
    still_there,
)
from yarl import URL

from orlop.agent import remote
from orlop.agent.backoff import MAX_S, Backoff
from orlop.agent.credentials import Credentials
from orlop.agent.remote import RemoteServers, ServerRefused, Unreachable
from orlop.agent.session import LinkClosed
from orlop.agent.websocket import WebSocketLink
from orlop.model.facts import EngineFacts, ForeignContainer, Image, NodeFacts, difference, in_full
from orlop.model.messages import (
    FACTS,
    Facts,
    Goodbye,
    Heartbeat,
    Refused,
    ToAgent,
    ToServer,
    Welcome,
)
from orlop.processes.exposure import CannotStart
from orlop.store.memory import MemoryStore


async def test_a_session_that_says_nothing_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orlop.api import agents

    monkeypatch.setattr(agents, "FIRST_MESSAGE_WITHIN_S", 0.2)
    monkeypatch.setattr(agents, "SILENT_S", 0.5)
    async with serving(tmp_path, auth=False) as one:
        link = await one.servers("n1").connect()
        assert "no message within 0.2 s" in (await heard(link, Refused)).reason
        other = await one.session("n2")
        assert "nothing was heard for 0.5 s" in await closed(other)


async def test_a_goodbye_is_delivered_before_the_connection_ends(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        said: list[ToServer] = []
        assert one.server._leadership is not None
        sessions = one.server._leadership._sessions
        received = sessions._received

        def note(session: str, node: str, message: ToServer) -> None:
            said.append(message)
            received(session, node, message)

        sessions._received = note  # type: ignore[method-assign]
        servers = await one.joined("n1")
        link = await servers.connect()
        link.send(hello("n1"))
        for _ in range(50):
            link.send(Heartbeat())
        link.send(Goodbye())
        await servers.close()
        await eventually(lambda: said and isinstance(said[-1], Goodbye), "the goodbye arrives")
        assert len(said) == 52


async def test_a_newer_session_takes_the_place_of_the_older(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        older = await one.session("n1")
        newer = await one.session_of(one.servers("n1"), "n1")
        await still_there(newer, "n1")
        older.close()
        await still_there(newer, "n1")


async def test_a_server_that_fell_silent_is_asked_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def give_up(_: object) -> str:
        return "nothing was heard"

    monkeypatch.setattr(remote, "keep_awake", give_up)
    urls = [URL(f"https://10.0.0.{number}:5050") for number in (1, 2, 3)]
    servers = RemoteServers(urls, "n1", Credentials(tmp_path))
    servers._leader = urls[1]
    asked: list[URL] = []

    async def ask(url: URL) -> None:
        asked.append(url)
        raise Unreachable("it does not answer")

    await servers._keep_awake(None, urls[1])  # type: ignore[arg-type]  # nobody looks at it
    with pytest.raises(Unreachable):
        await servers._first_of(ask)
    assert asked == [urls[0], urls[2], urls[1]]
    await servers.close()


async def test_the_next_server_is_tried_when_one_is_away(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        token = await one.token()
        servers = one.servers("n1", URL(f"https://127.0.0.1:{free_port()}"), one.url)
        await servers.join(token, "")
        await still_there(await one.session_of(servers, "n1"), "n1")


@asynccontextmanager
async def standing_by(location: str) -> AsyncIterator[URL]:
    """A server that does not lead: it sends everybody on."""

    async def answer(_: web.Request) -> web.Response:
        where = f"http://127.0.0.1:{port}" if location == "self" else location
        return web.Response(status=307, headers={"Location": where})

    port = free_port()
    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield URL(f"http://127.0.0.1:{port}")
    finally:
        await runner.cleanup()


async def test_a_standby_sends_on_to_the_leader(tmp_path: Path) -> None:
    async with serving(tmp_path, auth=False) as one, standing_by(f"{one.url}/v1/agents/session") as standby:
        servers = one.servers("n1", standby)
        assert (await servers.introduce()).cluster == one.server.state().cluster_id
        link = await one.session_of(servers, "n1")
        await still_there(link, "n1")


async def test_servers_with_authentication_stand_by_for_one_another(tmp_path: Path) -> None:
    store = MemoryStore()
    store.exclusive = False  # two servers share it, as they would an etcd
    async with contextlib.AsyncExitStack() as stack:
        first_life = await stack.enter_async_context(contextlib.AsyncExitStack())
        first = await first_life.enter_async_context(serving(tmp_path / "first", store=store))
        await eventually(lambda: first.server.role().leads, "the first server leads")
        folder = tmp_path / "second" / "server"
        with pytest.raises(CannotStart, match=r"cluster\.key is missing: copy it from another server"):
            await stack.enter_async_context(serving(tmp_path / "second", store=store))
        (folder / "cluster.key").write_bytes((first.data / "cluster.key").read_bytes())
        (folder / "cluster.key").chmod(0o600)
        second = await stack.enter_async_context(serving(tmp_path / "second", store=store))
        assert not second.server.role().leads
        assert second.authority == first.authority
        servers = second.servers("n1", second.url, first.url)
        await servers.join(await first.token(), "")
        link = await second.session_of(servers, "n1")
        assert first.server.state().node("n1") is not None
        headers = {"Authorization": f"Bearer {first.admin}"}
        status, document = await asked(second, headers=headers)
        assert (status, len(document["tokens"])) == (200, 2), "the standby hands it on over TLS"
        await first_life.aclose()
        await closed(link)
        await eventually(lambda: second.server.role().leads, "the second server leads")
        await still_there(await second.session_of(servers, "n1"), "n1")
        await second.token()
        assert (await asked(second, headers=headers))[0] == 200


@pytest.mark.parametrize("location", ["", "https://127.0.0.1:1/", "http://[bad", "self"])
async def test_redirects_that_lead_nowhere_are_refused(tmp_path: Path, location: str) -> None:
    async with serving(tmp_path, auth=False) as one, standing_by(location) as standby:
        with pytest.raises(ServerRefused):
            await one.servers("n1", standby).introduce()


def test_pauses_have_full_jitter_and_end_with_a_session_that_lasts() -> None:
    worst = Backoff(lambda: 1.0)
    pauses = [worst.pause_s(now_s) for now_s in range(8)]
    assert pauses[0] == 0
    assert pauses[1:5] == [1, 2, 4, 8]
    assert max(pauses) == MAX_S
    assert Backoff(lambda: 0.0).pause_s(0) == 0
    worst.began(100)
    assert worst.pause_s(105) == MAX_S, "a session that broke off at once is a failure too"
    worst.began(200)
    assert worst.pause_s(300) == 1.0


# --- the link itself ---


class DeafSocket:
    """A WebSocket whose other end takes nothing."""

    close_code = None

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.cut = asyncio.Event()

    async def send_bytes(self, data: bytes) -> None:
        await asyncio.Event().wait()

    async def receive(self) -> Any:
        await asyncio.to_thread(self.ours.recv, 1)
        return aiohttp.WSMessage(WSMsgType.CLOSED, None, None)

    async def ping(self, message: bytes = b"") -> None:
        await asyncio.Event().wait()

    async def close(self, *, code: int = 1000, message: bytes = b"") -> object:
        return await asyncio.Event().wait()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.ours


async def test_a_link_to_the_deaf_ends_and_so_does_whoever_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from orlop.agent import websocket

    monkeypatch.setattr(websocket, "CLOSE_WITHIN_S", 0.1)
    monkeypatch.setattr(websocket, "QUEUED_BYTES_MAX", 10_000)
    deaf = DeafSocket()
    link: WebSocketLink[ToAgent, ToServer] = WebSocketLink(deaf, decode_message, "the deaf")
    waiting = asyncio.create_task(link.receive())
    for _ in range(70):
        link.send(Refused(reason="x" * 100))
    with pytest.raises(LinkClosed, match="does not keep up"):
        link.send(Refused(reason="x" * 10_000))
    async with asyncio.timeout(5):
        with pytest.raises(LinkClosed):
            await waiting
        await link.finished()
    with pytest.raises(LinkClosed):
        link.send(Refused(reason="late"))
    deaf.ours.close()
    deaf.theirs.close()


def decode_message(_: bytes) -> ToServer:
    raise AssertionError("nothing is received")


async def test_facts_reach_the_kernel_and_are_dropped_with_the_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        servers = await one.joined("n1")

        async def told(facts: NodeFacts | None) -> None:
            await eventually(lambda: one.server.state().candidates["n1"].facts == facts, f"it knows {facts}")

        first = NodeFacts(
            engine=EngineFacts(version="1"),
            images={"i": Image(id="i", tags=("a:1",))},
            containers={"c": ForeignContainer(id="c", state="running", memory_bytes=5, labels={"a": "b"})},
        )
        second = NodeFacts(engine=first.engine, images={}, containers=first.containers)
        link = await servers.connect()
        link.send(hello("n1"))
        assert FACTS in (await heard(link, Welcome)).understands
        link.send(Facts(change=in_full(first)))
        await told(first)
        link.send(Facts(change=difference(first, second)))
        await told(second)
        link.send(hello("n1"))
        await told(None)
        link.send(Facts(change=difference(second, first)))
        link.send(Facts(change=in_full(second)))
        await told(second)
        link.send(attrs.evolve(hello("n1"), facts=in_full(first)))
        while not (await heard(link, Welcome)).facts:
            pass
        assert one.server.state().candidates["n1"].facts == first, "before it is welcome"

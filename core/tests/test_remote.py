"""Servers and agents of other machines over real sockets, in one loop: who gets in, who does not, what breaks."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from aiohttp import WSMsgType, web
from yarl import URL

from orlop.agent import remote
from orlop.agent.backoff import MAX_S, Backoff
from orlop.agent.credentials import Credentials, trusting
from orlop.agent.remote import RemoteServers, ServerRefused, Unreachable, WrongCluster
from orlop.agent.runtimes.interface import UnknownTask
from orlop.agent.session import Link, LinkClosed
from orlop.agent.stream_service import serve_stream
from orlop.agent.streams import StreamClosed, StreamEnd, local_stream
from orlop.agent.websocket import WebSocketLink
from orlop.api import runner as running_api
from orlop.api import tls_site
from orlop.configuration import ServerSettings, Settings
from orlop.framework import NotAvailable
from orlop.model.messages import (
    Assignments,
    Goodbye,
    Heartbeat,
    Hello,
    OpenStreams,
    Refused,
    ToAgent,
    ToServer,
    Welcome,
)
from orlop.model.nodes import NodeInfo
from orlop.model.resources import Resources
from orlop.model.streams import Accepted, Fault, OutputRequest, Rejected, decode_answer, decode_request, encode
from orlop.model.wire import decode_to_agent
from orlop.processes.exposure import CannotStart
from orlop.processes.listening import listen
from orlop.security import authority as signing
from orlop.security.tokens import Purpose, Token, make_token, parse_token
from orlop.server import builtin
from orlop.server.plugin_host import PluginHost
from orlop.server.server import Server
from orlop.server.streams import Refused as StreamRefused
from orlop.store.memory import MemoryStore

DEADLINE_S = 30
Agent = Link[ToServer, ToAgent]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Serving:
    """A server that serves, and what a test needs of it."""

    def __init__(self, server: Server, data: Path) -> None:
        self.server = server
        self.data = data
        self.secure = server.settings.server.auth == "on"
        self.url = URL(f"{'https' if self.secure else 'http'}://{server.address}")
        self._opened: list[RemoteServers] = []

    @property
    def authority(self) -> bytes:
        return (self.data / "ca.pem").read_bytes()

    @property
    def admin(self) -> str:
        return (self.data / "admin.token").read_text().strip()

    def servers(self, node: str, *urls: URL) -> RemoteServers:
        """A node's way to this server."""
        made = RemoteServers(urls or (self.url,), node, Credentials(self.data / node))
        self._opened.append(made)
        return made

    async def token(self, **options: Any) -> Token:
        options = {"lifetime_ms": 60_000, "uses_max": 1, "node": "", "note": "", "by": "test"} | options
        token, _ = await self.server.remote.create_join_token(**options)
        return token

    async def joined(self, node: str) -> RemoteServers:
        """A node that has joined."""
        servers = self.servers(node)
        if self.secure:
            await servers.join(await self.token(), "")
        return servers

    async def session(self, node: str) -> Agent:
        """A node that has joined and been welcomed."""
        return await self.session_of(await self.joined(node), node)

    async def session_of(self, servers: RemoteServers, node: str) -> Agent:
        """The session of a node that has joined, once it is welcomed."""
        link = await servers.connect()
        link.send(hello(node))
        await heard(link, Welcome)
        return link

    async def close(self) -> None:
        for one in self._opened:
            await one.close()


@asynccontextmanager
async def serving(
    folder: Path, auth: bool = True, store: MemoryStore | None = None, **options: Any
) -> AsyncIterator[Serving]:
    """A real server over a store in memory."""
    data = folder / "server"
    data.mkdir(parents=True, exist_ok=True)
    made = ServerSettings(listen=f"127.0.0.1:{free_port()}", auth="on" if auth else "off", **options)
    settings = Settings(server=made)
    plugins = PluginHost(settings, [("orlop", builtin)], found=[])
    plugins.load()
    server = Server(settings, plugins, store or MemoryStore(), "memory://")
    runners: list[web.AppRunner] = []
    server.start()
    one = Serving(server, data)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await server.ready()
            await listen(server, data, runners)
            yield one
    finally:
        await one.close()
        for runner in runners:
            await runner.cleanup()
        await server.stop()


def hello(node: str, **members: Any) -> Hello:
    info = NodeInfo(id=node, name=node, address="127.0.0.1", resources=Resources.of({"cpus": 1000, "mem": 2**30}))
    return Hello(node=info, **members)


async def heard(link: Agent, kind: type) -> Any:
    """The next message of this kind."""
    while True:
        message = await link.receive()
        if isinstance(message, kind):
            return message


async def closed(link: Agent) -> str:
    """Why the session ended."""
    while True:
        try:
            await link.receive()
        except LinkClosed as error:
            return str(error)


async def still_there(link: Agent, node: str) -> None:
    """A session that works: it says hello again and is answered."""
    link.send(hello(node))
    assert (await heard(link, Assignments)).full


async def eventually(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)
    return found


# --- joining ---


async def test_a_node_joins_with_a_token_and_has_a_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        link = await one.session("n1")
        node = one.server.state().node("n1")
        assert node is not None
        assert node.schedulable
        files = {file.name: file.stat().st_mode & 0o777 for file in (one.data / "n1").iterdir()}
        assert files == {"key.pem": 0o600, "certificate.pem": 0o600, "authority.pem": 0o600}
        await still_there(link, "n1")


async def test_without_authentication_a_node_of_this_machine_needs_no_token(tmp_path: Path) -> None:
    async with serving(tmp_path, auth=False) as one:
        introduction = await one.servers("n1").introduce()
        assert (introduction.cluster, introduction.authority) == (one.server.state().cluster_id, None)
        await one.session("n1")
        with pytest.raises(WrongCluster, match="not https"):
            await one.servers("n2").join(make_token(Purpose.JOIN, bytes(21), "ab" * 32), "")
        assert not (one.data / "admin.token").exists()


async def test_a_token_is_good_for_one_node_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path) as one:
        token = await one.token()
        first = one.servers("n1")
        assert await first.join(token, "") == one.server.state().cluster_id
        assert await first.join(token, "") == one.server.state().cluster_id, "a lost answer is given again"
        with pytest.raises(ServerRefused, match="the token was used before") as caught:
            await one.servers("n2").join(token, "")
        assert caught.value.status == 403
        assert "an agent at 127.0.0.1 is refused: the token was used before" in caplog.text
        assert token.secret not in caplog.text


async def test_tokens_that_let_nobody_in(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        good = await one.token()
        wrong = attrs.evolve(good, secret="0" * 25)
        expired = await one.token(lifetime_ms=1)
        revoked = await one.token()
        await one.server.remote.revoke_token(revoked.id, "test")
        await asyncio.to_thread(_wait_until_ms, time.time_ns() // 1_000_000 + 2)
        for token, why in ((wrong, "not known"), (expired, "expired"), (revoked, "revoked")):
            with pytest.raises(ServerRefused, match=why):
                await one.servers("n1").join(token, "")
        other = await one.token(node="n2")
        with pytest.raises(ServerRefused, match="for node n2 only"):
            await one.servers("n1").join(other, "")
        assert await one.servers("n1").join(good, "")


def _wait_until_ms(utc_ms: int) -> None:
    while time.time_ns() // 1_000_000 < utc_ms:
        continue


async def test_two_nodes_that_race_with_one_token(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        token = await one.token()
        results = await asyncio.gather(
            *(one.servers(f"n{number}").join(token, "") for number in range(6)), return_exceptions=True
        )
        assert sum(isinstance(result, str) for result in results) == 1
        assert all(isinstance(result, str | ServerRefused) for result in results)


async def test_a_token_is_not_shown_to_a_server_of_another_authority(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with serving(tmp_path) as one, serving(tmp_path / "other") as other:
        token = await one.token()
        with pytest.raises(WrongCluster, match="another cluster than the token's"):
            await one.servers("n1", other.url).join(token, "")
        assert one.server.remote.tokens()[token.id].uses == 0
        with pytest.raises(WrongCluster, match="this node belongs to cluster elsewhere"):
            await one.servers("n1").join(token, "elsewhere")
        assert one.server.remote.tokens()[token.id].uses == 0


async def test_a_certificate_is_renewed_for_the_same_key_only(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        servers = await one.joined("n1")
        credentials = Credentials(one.data / "n1")
        before = credentials.certificate()
        await servers.renew()
        after = credentials.certificate()
        assert after != before
        await still_there(await one.session_of(servers, "n1"), "n1")
        (one.data / "n1" / "key.pem").unlink()
        fresh = credentials.key(secrets.token_bytes(signing.KEY_ENTROPY_BYTES))
        assert fresh
        with pytest.raises((ServerRefused, Unreachable)):
            await one.servers("n1").renew()


async def test_an_expelled_node_is_shut_out(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        servers = await one.joined("n1")
        await one.server.remote.expel("n1", "test")
        with pytest.raises(ServerRefused, match="not admitted"):
            await servers._dial_session(one.url)
        with pytest.raises(ServerRefused, match="not admitted"):
            await servers.renew()


async def test_credentials_that_do_not_fit_together_are_not_kept(tmp_path: Path) -> None:
    now_ms = time.time_ns() // 1_000_000
    credentials = Credentials(tmp_path / "tls")
    key = credentials.key(secrets.token_bytes(48))
    assert credentials.key(secrets.token_bytes(48)) == key
    authority, foreign = (
        signing.make_authority("c", signing.make_key(secrets.token_bytes(48)), secrets.token_bytes(16), now_ms)
        for _ in range(2)
    )
    request = signing.make_request(key, "n1")
    certificate = signing.issue_agent(authority, request, "n1", secrets.token_bytes(16), now_ms)
    other = signing.issue_agent(
        authority,
        signing.make_request(signing.make_key(secrets.token_bytes(48)), "n1"),
        "n1",
        secrets.token_bytes(16),
        now_ms,
    )
    for wrong, of in ((certificate, foreign), (other, authority), (b"rubbish", authority)):
        with pytest.raises(ValueError, match="no certificate of this node's key"):
            credentials.keep(wrong, of.certificate)
    assert credentials.certificate() is None
    credentials.keep(certificate, authority.certificate)
    assert credentials.certificate() == certificate


# --- who is not let in, and that nobody else notices ---


async def raw_session(one: Serving, context: ssl.SSLContext | None) -> tuple[Any, aiohttp.ClientSession]:
    http = aiohttp.ClientSession()
    try:
        web_socket = await http.ws_connect(
            one.url / "v1/agents/session", ssl=context if context is not None else True, max_msg_size=0
        )
    except BaseException:
        await http.close()
        raise
    return web_socket, http


@pytest.mark.parametrize("auth", [True, False], ids=["tls", "plain"])
@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b'{"v":2,"type":"hello"}', "the other side speaks version 2 of the session, and this one speaks version 1"),
        (b"rubbish", "a message is not JSON"),
        (b"\x00" * 5000, "a message is not JSON"),
        (b'{"v":1,"type":"welcome","cluster_id":"x","epoch":{"generation":9,"revision":9}}', "not one that an agent"),
        (b'{"v":1,"type":"heartbeat"}', "a session begins with a hello"),
        ("a text", "expected a binary message"),
    ],
)
async def test_what_is_no_session_is_refused_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, auth: bool, sent: bytes | str, why: str
) -> None:
    async with serving(tmp_path, auth=auth) as one:
        other = await one.session("well")
        await one.joined("n1")
        context = Credentials(one.data / "n1").context() if auth else None
        web_socket, http = await raw_session(one, context)
        async with http:
            await (web_socket.send_str(sent) if isinstance(sent, str) else web_socket.send_bytes(sent))
            answer = await web_socket.receive()
            assert answer.type is WSMsgType.BINARY
            refused = decode_to_agent(answer.data)
            assert isinstance(refused, Refused)
            assert why in refused.reason
            assert (await web_socket.receive()).type is WSMsgType.CLOSE
            assert web_socket.close_code == aiohttp.WSCloseCode.POLICY_VIOLATION
        assert why in caplog.text
        await still_there(other, "well")


async def test_a_hello_of_another_node_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        victim = await one.session("victim")
        link = await (await one.joined("thief")).connect()
        link.send(hello("victim"))
        refused = await heard(link, Refused)
        assert "speaks for node thief, and the hello is of node victim" in refused.reason
        await closed(link)
        await still_there(victim, "victim")


async def test_a_hello_of_another_node_later_in_the_session_is_refused_too(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        link = await one.session("thief")
        link.send(hello("victim"))
        assert "speaks for node thief" in (await heard(link, Refused)).reason
        assert one.server.state().node("victim") is None


async def test_without_a_certificate_there_is_no_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as one, aiohttp.ClientSession() as http:
        for path in ("session", "streams/x"):
            url = one.url / "v1/agents" / path
            async with http.get(url, ssl=trusting(one.authority)) as answer:
                assert answer.status == 403
                assert "certificate" in (await answer.json())["error"]
        async with http.post(one.url / "v1/agents/renew", ssl=trusting(one.authority)) as answer:
            assert answer.status == 403


async def test_a_certificate_of_a_foreign_authority_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "foreign").mkdir()
    async with serving(tmp_path) as one, serving(tmp_path / "foreign") as foreign:
        other = await one.session("well")
        await foreign.joined("n1")
        context = Credentials(foreign.data / "n1").context()
        context.load_verify_locations(cadata=one.authority.decode())
        with contextlib.suppress(aiohttp.ClientError, OSError):  # TLS 1.3 tells a client only when it reads
            web_socket, http = await raw_session(one, context)
            async with http:
                assert (await web_socket.receive()).type is not WSMsgType.BINARY
        await eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in caplog.text, "it is logged")
        servers = foreign.servers("n1", one.url)
        with pytest.raises(Unreachable, match="not a server of this cluster"):
            await servers._dial_session(one.url)
        await still_there(other, "well")


async def test_plain_http_is_told_that_this_is_tls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path) as one:
        other = await one.session("well")
        async with aiohttp.ClientSession() as http, http.get(one.url.with_scheme("http") / "v1/cluster") as answer:
            assert answer.status == 400
            assert (await answer.json())["error"] == "this port speaks TLS"
        assert "does not speak TLS" in caplog.text
        await still_there(other, "well")


@pytest.mark.parametrize("auth", [True, False], ids=["tls", "plain"])
async def test_a_frame_of_a_gigabyte_is_refused_unread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, auth: bool
) -> None:
    async with serving(tmp_path, auth=auth) as one:
        other = await one.session("well")
        await one.joined("n1")
        context = Credentials(one.data / "n1").context() if auth else None
        reader, writer = await asyncio.open_connection(one.url.host, one.url.port, ssl=context)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        writer.write(
            f"GET /v1/agents/session HTTP/1.1\r\nHost: 127.0.0.1:{one.url.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(struct.pack("!BBQ", 0x82, 0x80 | 127, 2**30) + secrets.token_bytes(4) + b"x" * 100_000)
        with contextlib.suppress(ConnectionError):
            assert await reader.read(2**20), "a close frame"
            await reader.read()
        writer.close()
        assert "exceeds limit" in caplog.text
        await still_there(other, "well")


async def test_strangers_that_send_nothing_are_closed_and_do_not_crowd_out_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_site, "HANDSHAKE_WITHIN_S", 1.0)
    monkeypatch.setattr(tls_site, "UNFINISHED_MAX", 5)
    async with serving(tmp_path) as one:
        strangers = [await asyncio.open_connection(one.url.host, one.url.port) for _ in range(20)]
        await still_there(await one.session("well"), "well")
        for reader, writer in strangers:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
        assert "the oldest is dropped" in caplog.text
        assert "has not finished its TLS handshake in time" in caplog.text


async def test_connections_that_do_not_say_who_they_are_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_api, "PROVEN_WITHIN_S", 0.5)
    monkeypatch.setattr(running_api, "UNPROVEN_MAX", 3)
    async with serving(tmp_path) as one:
        session = await one.session("well")
        strangers = [
            await asyncio.open_connection(one.url.host, one.url.port, ssl=trusting(one.authority)) for _ in range(6)
        ]
        for reader, writer in strangers:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
        await still_there(session, "well")


# --- sessions ---


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
        received = one.server._leadership._sessions._received

        def note(session: str, node: str, message: ToServer) -> None:
            said.append(message)
            received(session, node, message)

        one.server._leadership._sessions._received = note  # type: ignore[method-assign]
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
    store.exclusive = False  # type: ignore[misc]  # two servers share it, as they would an etcd
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


# --- streams ---


class Output:
    """A runtime that has the output of one task."""

    name = "process"

    def __init__(self, pieces: list[bytes], forever: bool = False) -> None:
        self._pieces = pieces
        self._forever = forever
        self.let_go = asyncio.Event()

    async def logs(self, task: str, stream: str, *, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        if task != "t1":
            raise UnknownTask(f"{task} has no output on this node")
        try:
            for piece in self._pieces:
                yield piece
            if self._forever:
                await asyncio.Event().wait()
        finally:
            self.let_go.set()


REQUEST = OutputRequest(task="t1", runtime="process", output="stdout")


async def serve_asked(servers: RemoteServers, link: Agent, runtime: Any) -> None:
    """What an agent does with OpenStreams, for ever."""
    async with asyncio.TaskGroup() as group:
        while True:
            for stream_id in (await heard(link, OpenStreams)).ids:
                stream = await servers.dial_stream(stream_id)
                group.create_task(serve_stream(stream, {runtime.name: runtime}))


@asynccontextmanager
async def node_with(one: Serving, runtime: Any) -> AsyncIterator[None]:
    servers = await one.joined("n1")
    link = await servers.connect()
    link.send(hello("n1"))
    serving_streams = asyncio.create_task(serve_asked(servers, link, runtime))
    try:
        await eventually(lambda: "n1" in one.server.remote.streams._nodes, "the session has begun")
        yield
    finally:
        serving_streams.cancel()
        await asyncio.wait([serving_streams])


async def read_all(stream: StreamEnd) -> bytes:
    received = bytearray()
    while (frame := await stream.receive()) is not None:
        received += frame
    return bytes(received)


@pytest.mark.parametrize("auth", [True, False], ids=["tls", "plain"])
async def test_output_comes_through_streams(tmp_path: Path, auth: bool) -> None:
    pieces = [secrets.token_bytes(60_000) for _ in range(100)]
    async with serving(tmp_path, auth=auth) as one, node_with(one, Output(pieces)):
        streams = one.server.remote.streams
        for _ in range(6):
            stream = await streams.open("n1", REQUEST)
            assert await read_all(stream) == b"".join(pieces)
            await stream.close()
        both = await asyncio.gather(*(streams.open("n1", REQUEST) for _ in range(10)))
        assert [len(await read_all(stream)) for stream in both] == [6_000_000] * 10
        for stream in both:
            await stream.close()


async def test_a_node_says_why_it_does_not(tmp_path: Path) -> None:
    async with serving(tmp_path) as one, node_with(one, Output([b"x"])):
        streams = one.server.remote.streams
        with pytest.raises(StreamRefused, match="t2 has no output") as caught:
            await streams.open("n1", attrs.evolve(REQUEST, task="t2"))
        assert caught.value.fault is Fault.NOT_FOUND
        with pytest.raises(StreamRefused, match="no docker runtime"):
            await streams.open("n1", attrs.evolve(REQUEST, runtime="docker"))
        with pytest.raises(NotAvailable, match="no session"):
            await streams.open("n9", REQUEST)


async def test_the_node_lets_go_when_the_reader_has_had_enough(tmp_path: Path) -> None:
    endless = Output([b"x"], forever=True)
    async with serving(tmp_path) as one, node_with(one, endless):
        stream = await one.server.remote.streams.open("n1", REQUEST)
        assert await stream.receive() == b"x"
        assert not endless.let_go.is_set()
        await stream.close()
        async with asyncio.timeout(10):
            await endless.let_go.wait()


async def test_a_slow_reader_holds_the_node_back(tmp_path: Path) -> None:
    taken = 0

    class Counting(Output):
        async def logs(self, *_: Any, **__: Any) -> AsyncIterator[bytes]:
            nonlocal taken
            for _number in range(1000):
                taken += 1
                yield b"x" * 100_000

    async with serving(tmp_path) as one, node_with(one, Counting([])):
        stream = await one.server.remote.streams.open("n1", REQUEST)
        first = await stream.receive()
        assert first
        before = -1
        while before != taken:  # until nothing moves any more
            before = taken
            await asyncio.sleep(0.3)
        assert taken < 500, "100 MB are not read ahead"
        assert len(first) + len(await read_all(stream)) == 100_000_000
        await stream.close()


async def test_a_stream_is_for_its_node_and_for_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path) as one:
        thief = await one.joined("thief")
        servers = await one.joined("n1")
        link = await servers.connect()
        link.send(hello("n1"))
        ids = (await heard(link, OpenStreams)).ids
        assert len(set(ids)) == 2
        for stream_id in (ids[0], "0" * 32):
            with pytest.raises(ServerRefused, match="no stream of this id"):
                await thief.dial_stream(stream_id)
        assert "a stream that nobody asked for is refused" in caplog.text
        stream = await servers.dial_stream(ids[0])
        with pytest.raises(ServerRefused, match="no stream of this id"):
            await servers.dial_stream(ids[0])
        opening = asyncio.create_task(one.server.remote.streams.open("n1", REQUEST))
        asked = await stream.receive()
        assert asked is not None
        assert decode_request(asked) == REQUEST
        await stream.send(encode(Accepted()))
        opened = await opening
        await opened.send(b"one way")
        await opened.send_end()
        assert await read_all(stream) == b"one way"
        await stream.send(b"and back")  # after the other direction has ended
        await stream.send_end()
        assert await read_all(opened) == b"and back"
        await opened.close()
        await stream.close()


async def test_a_frame_that_is_too_large_ends_its_stream_only(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        servers = await one.joined("n1")
        link = await servers.connect()
        link.send(hello("n1"))
        ids = (await heard(link, OpenStreams)).ids
        stream = await servers.dial_stream(ids[0])
        opening = asyncio.create_task(one.server.remote.streams.open("n1", REQUEST))
        await stream.receive()
        await stream.send(encode(Accepted()))
        opened = await opening
        await stream._socket.send_bytes(b"x" * (2**20 + 1))
        with pytest.raises(StreamClosed):
            await read_all(opened)
        await opened.close()
        await stream.close()
        await still_there(link, "n1")


async def test_idle_streams_that_broke_are_passed_over(tmp_path: Path) -> None:
    async with serving(tmp_path) as one, node_with(one, Output([b"x"])):
        streams = one.server.remote.streams
        known = streams._nodes["n1"]
        await eventually(lambda: len(known.idle) == 2, "streams are dialled in advance")
        for broken in known.idle:
            broken._socket.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        stream = await streams.open("n1", REQUEST)
        assert await read_all(stream) == b"x"
        await stream.close()


async def test_local_streams_are_streams() -> None:
    ours, its = local_stream()
    await ours.send(b"there")
    await ours.send_end()
    assert await read_all(its) == b"there"
    assert await its.receive() is None
    await its.send(b"back")
    assert await ours.receive() == b"back"
    waiting = asyncio.create_task(ours.receive())
    await asyncio.sleep(0)
    await its.close("enough")
    with pytest.raises(StreamClosed, match="enough"):
        await waiting
    with pytest.raises(StreamClosed):
        await ours.send(b"late")


async def test_local_streams_hold_their_writer_back() -> None:
    ours, its = local_stream()
    sent = 0

    async def write() -> None:
        nonlocal sent
        for _ in range(100):
            await ours.send(b"x")
            sent += 1
        await ours.send_end()

    writing = asyncio.create_task(write())
    for _ in range(50):
        await asyncio.sleep(0)
    assert sent < 10
    assert len(await read_all(its)) == 100
    await writing


@pytest.mark.parametrize("first", [b"rubbish", b'{"v":2,"type":"output"}', encode(Accepted())])
async def test_an_agent_refuses_what_is_no_request(first: bytes) -> None:
    ours, its = local_stream()
    serving_stream = asyncio.create_task(serve_stream(its, {}))
    await ours.send(first)
    answer = decode_answer(await ours.receive() or b"")
    assert isinstance(answer, Rejected)
    assert answer.fault is Fault.INVALID
    await ours.close()
    await serving_stream


# --- the operator API with authentication ---


async def asked(one: Serving, **options: Any) -> tuple[int, dict[str, Any]]:
    url, context = one.url / "v1/tokens", trusting(one.authority)
    async with aiohttp.ClientSession() as http, http.get(url, ssl=context, **options) as answer:
        return answer.status, await answer.json()


async def test_the_api_asks_for_a_token(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path) as one:
        status, document = await asked(one)
        assert (status, document["error"]) == (401, "this server asks for a token")
        status, document = await asked(one, headers={"Authorization": f"Bearer {one.admin}"})
        assert status == 200
        assert [row["purpose"] for row in document["tokens"]] == ["api"]
        password = base64.b64encode(f"anybody:{one.admin}".encode()).decode()
        assert (await asked(one, headers={"Authorization": f"Basic {password}"}))[0] == 200
        join = await one.token()
        wrong = attrs.evolve(parse_token(one.admin), secret="1" * 25).text
        for value in (f"Bearer {wrong}", f"Bearer {join.text}", "Bearer ", "Basic !", "Basic " + "A" * 4000, "x", "é"):
            assert (await asked(one, headers={"Authorization": value}))[0] == 401, value[:40]
        headers = {"Authorization": f"Bearer {one.admin}", "Origin": "https://evil.example"}
        assert (await asked(one, headers=headers))[0] == 403
        assert (await asked(one, headers=headers | {"Origin": str(one.url)}))[0] == 200
        assert one.admin.rpartition("-")[2] not in caplog.text
        assert "is refused" in caplog.text


async def test_a_revoked_admin_token_is_replaced_at_the_next_start(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        first = one.admin
        await one.server.remote.revoke_token(parse_token(first).id, "test")
        assert (await asked(one, headers={"Authorization": f"Bearer {first}"}))[0] == 401
        from orlop.processes.securing import secure

        await secure(one.server, one.data, [])
        assert one.admin != first
        assert (await asked(one, headers={"Authorization": f"Bearer {one.admin}"}))[0] == 200
        assert (await asked(one, headers={"Authorization": f"Bearer {first}"}))[0] == 401


async def test_the_authority_is_made_once_and_needs_the_cluster_key(tmp_path: Path) -> None:
    from orlop.processes.securing import secure

    async with serving(tmp_path) as one:
        server = one.server
        before, certificate = one.authority, (one.data / "tls" / "server.pem").read_bytes()
        await secure(server, one.data, ["127.0.0.1"])
        assert one.authority == before
        assert (one.data / "tls" / "server.pem").read_bytes() == certificate
        await secure(server, one.data, ["127.0.0.1", "10.9.8.7"])
        assert "10.9.8.7" in signing.names_of((one.data / "tls" / "server.pem").read_bytes())
        key = (one.data / "cluster.key").read_bytes()
        (one.data / "cluster.key").unlink()
        with pytest.raises(CannotStart, match=r"cluster\.key is missing"):
            await secure(server, one.data, [])
        (one.data / "cluster.key").write_text("00" * 32)
        (one.data / "cluster.key").chmod(0o600)
        with pytest.raises(CannotStart, match="another cluster key"):
            await secure(server, one.data, [])
        (one.data / "cluster.key").write_bytes(key)
        (one.data / "cluster.key").chmod(0o644)
        with pytest.raises(CannotStart, match="chmod 600"):
            await secure(server, one.data, [])
        assert b"PRIVATE" not in b"".join(entry.value for entry in one.server._parts.store.range("").entries)


async def test_a_certificate_has_the_advertised_names(tmp_path: Path) -> None:
    async with serving(tmp_path, advertise="orlop.example:5050", names=("10.1.1.1",)) as one:
        names = signing.names_of((one.data / "tls" / "server.pem").read_bytes())
        assert names == {"orlop.example", "10.1.1.1", "127.0.0.1", "::1", "localhost"}


async def test_nobody_takes_the_place_of_the_servers_own_node(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        await one.server.remote.admit_local("local")
        token = await one.token()
        with pytest.raises(ServerRefused, match="another key"):
            await one.servers("local").join(token, "")


async def test_tokens_over_the_api(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        headers = {"Authorization": f"Bearer {one.admin}"}
        async with aiohttp.ClientSession(base_url=one.url, headers=headers) as http:
            context = trusting(one.authority)

            async def call(method: str, path: str, status: int, **options: Any) -> Any:
                async with http.request(method, path, ssl=context, **options) as answer:
                    assert answer.status == status, await answer.text()
                    return await answer.json()

            made = await call("POST", "/v1/tokens", 201, json={"lifetime_s": 60, "uses": 3, "note": "rack 1"})
            token = parse_token(made["token"])
            assert token.authority == signing.fingerprint(one.authority)
            listed = (await call("GET", "/v1/tokens", 200))["tokens"]
            (row,) = [row for row in listed if row["id"] == token.id]
            assert (row["state"], row["uses_max"], row["note"]) == ("good", 3, "rack 1")
            assert "token" not in row
            assert token.secret not in str(listed)
            await one.servers("n1").join(token, "")
            assert (await call("DELETE", f"/v1/tokens/{token.id}", 200))["changed"] is True
            assert (await call("DELETE", f"/v1/tokens/{token.id}", 200))["changed"] is False
            await call("DELETE", "/v1/tokens/nothere0", 404)
            for body in ({"uses": 0}, {"uses": "many"}, {"lifetime_s": -1}, {"lifetime_s": 1.5}, {"colour": "red"}):
                await call("POST", "/v1/tokens", 400, json=body)
            await one.session_of(one.servers("n1"), "n1")
            assert (await call("DELETE", "/v1/nodes/n1/admission", 200))["changed"] is True
            kinds = [row["type"] for row in (await call("GET", "/v1/events", 200))["events"]]
            assert {"orlop.token.created", "orlop.token.revoked", "orlop.node.joined", "orlop.node.expelled"} <= set(
                kinds
            )

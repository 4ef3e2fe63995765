"""Who is not let in by a real server: refused with the reason, in the log, and nobody else is disturbed meanwhile.

Each of these runs beside agents with sessions and tasks; `undisturbed` looks at them before and after.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import secrets
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hosts import Hosts, Process, RemoteCluster
from running import wait_until
from yarl import URL

from orlop.agent.credentials import Credentials
from orlop.agent.remote import RemoteServers
from orlop.model.messages import Refused
from orlop.model.wire import decode_to_agent
from orlop.security import authority as signing
from orlop.security.tokens import parse_token

pytestmark = pytest.mark.real

NODES = ("n1", "n2", "n3")


@pytest.fixture(scope="module")
def cluster(hosts: Hosts) -> Iterator[RemoteCluster]:
    """A server and three agents with tasks."""
    made = RemoteCluster(hosts)
    try:
        made.start_server()
        for name in NODES:
            made.add_agent(name, wait=False)
        made.wait_ready(*NODES)
        made.deploy("/undisturbed", 6, constraints=[["hostname", "GROUP_BY"]])
        yield made
    finally:
        made.close()


def tasks(cluster: RemoteCluster) -> dict[str, list[int]]:
    return {task: pids for name in NODES for task, pids in cluster.agents[name].tasks().items()}


def sessions_ended(cluster: RemoteCluster) -> dict[str, int]:
    return {name: cluster.agents[name].said().count("the session with the server ended") for name in NODES}


@contextmanager
def undisturbed(cluster: RemoteCluster) -> Iterator[None]:
    """Meanwhile no session of a node ends, no task either, and what is deployed is run."""
    before, ended = tasks(cluster), sessions_ended(cluster)
    kept = {task: before[task] for task in cluster.placed("/undisturbed")}
    assert len(kept) == 6
    yield
    cluster.deploy("/meanwhile", 3, env={"ROUND": secrets.token_hex(4)}, constraints=[["hostname", "UNIQUE"]])
    assert {cluster.nodes()[name] for name in NODES} == {"ready"}
    assert sessions_ended(cluster) == ended
    now = tasks(cluster)
    assert {task: pids for task, pids in now.items() if task in kept} == kept


def said_since(cluster: RemoteCluster, mark: int) -> str:
    return cluster.server.said()[mark:]


# --- tokens ---


def refused(cluster: RemoteCluster, name: str, token: str | None, *more: str) -> str:
    """What an agent says that is not let in; it ends by itself."""
    agent = cluster.agent(name)
    try:
        agent.start(*(["--token", token] if token is not None else []), *more)
        assert agent.ended() == 1
        assert name not in cluster.nodes()
        return agent.said()
    finally:
        agent.close()


def wrong(cluster: RemoteCluster) -> str:
    kind, secret, authority = cluster.token().rsplit("-", 2)
    return f"{kind}-{'0' * len(secret)}-{authority}"


def expired(cluster: RemoteCluster) -> str:
    token = cluster.token("--lifetime", "1s")
    wait_until(lambda: token_state(cluster, token) == "expired", "it expires")
    return token


def revoked(cluster: RemoteCluster) -> str:
    token = cluster.token()
    cluster.cli("token", "revoke", token)
    return token


def reused(cluster: RemoteCluster) -> str:
    token = cluster.token()
    cluster.add_agent("n4", token=token)
    cluster.agents.pop("n4").close()
    return token


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (wrong, "the token is not known"),
        (expired, "the token has expired"),
        (revoked, "the token was revoked"),
        (reused, "the token was used before"),
    ],
)
def test_a_token_that_lets_nobody_in(cluster: RemoteCluster, make: Callable[[RemoteCluster], str], why: str) -> None:
    token = make(cluster)
    mark = len(cluster.server.said())
    with undisturbed(cluster):
        assert f"the server does not let this node in: {cluster.url}: {why}" in refused(cluster, "stray", token)
        assert re.search(f"an agent at .* is refused: {why}", said_since(cluster, mark))
    assert token.split("-")[4] not in cluster.server.said(), "the secret is in no log"


def test_what_is_no_token_is_not_even_shown_to_a_server(cluster: RemoteCluster) -> None:
    assert "this is not a token" in refused(cluster, "rubbish", "open sesame")
    assert "not one to join with" in refused(cluster, "api", cluster.admin)
    assert "give a join token" in refused(cluster, "none", None)


def token_state(cluster: RemoteCluster, token: str) -> str:
    rows = cluster.get("/v1/tokens")["tokens"]
    cluster.call("POST", "/v1/tokens", {"lifetime_s": 1})  # the state's clock goes on with each write
    return next(row["state"] for row in rows if row["id"] == token.split("-")[3])


# --- what is said on the port ---


def a_stranger(cluster: RemoteCluster, folder: Path) -> Credentials:
    """A certificate of this cluster, in somebody's hands who is no agent."""
    credentials = Credentials(folder)

    async def join() -> None:
        servers = RemoteServers((URL(cluster.url),), f"odd-{secrets.token_hex(3)}", credentials)
        try:
            await servers.join(parse_token(cluster.token()), "")
        finally:
            await servers.close()

    asyncio.run(join())
    return credentials


@contextmanager
def connected(cluster: RemoteCluster, context: ssl.SSLContext | None) -> Iterator[socket.SocketIO]:
    """A connection to the server's port."""
    url = URL(cluster.url)
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(socket.create_connection((url.host, url.port), timeout=30))
        wrapped = stack.enter_context(context.wrap_socket(plain)) if context is not None else plain
        yield stack.enter_context(wrapped.makefile("rwb", buffering=0))


def asked(stream: socket.SocketIO, protocols: str = "") -> str:
    """The head of the answer to a request for a session, and its body, if that is an error's."""
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    offered = f"Sec-WebSocket-Protocol: {protocols}\r\n" if protocols else ""
    stream.write(
        "GET /v1/agents/session HTTP/1.1\r\nHost: server\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{offered}\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n") and (piece := stream.read(1)):
        head += piece
    length = re.search(rb"content-length: ([0-9]+)", head.lower())
    return (head + (stream.read(int(length[1])) or b"" if length is not None else b"")).decode()


def frame(kind: int, data: bytes) -> bytes:
    """A client's, masked with zeros."""
    assert len(data) < 2**16
    return struct.pack("!BBH", 0x80 | kind, 0x80 | 126, len(data)) + bytes(4) + data


def read_frame(stream: socket.SocketIO) -> tuple[int, bytes]:
    """The server's next one: its kind, what it holds."""
    kind, length = exactly(stream, 2)
    if length == 126:
        (length,) = struct.unpack("!H", exactly(stream, 2))
    return kind & 0x0F, exactly(stream, length)


def exactly(stream: socket.SocketIO, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = stream.read(count - len(data))
        assert piece, "the connection has ended"
        data += piece
    return data


TEXT, BINARY, CLOSE = 1, 2, 8


def told(cluster: RemoteCluster, folder: Path, sent: bytes) -> str:
    """What a session says that begins with this frame, and that it ends then."""
    with connected(cluster, a_stranger(cluster, folder).context()) as stream:
        assert " 101 " in asked(stream)
        stream.write(sent)
        kind, data = read_frame(stream)
        assert kind == BINARY
        refused = decode_to_agent(data)
        assert isinstance(refused, Refused)
        kind, data = read_frame(stream)
        assert (kind, int.from_bytes(data[:2], "big")) == (CLOSE, 1008), "a violation of what was agreed"
        return refused.reason


def wrong_version(cluster: RemoteCluster, folder: Path) -> str:
    return told(cluster, folder, frame(BINARY, b'{"v":9,"type":"hello"}'))


def wrong_versions_offered(cluster: RemoteCluster, folder: Path) -> str:
    with connected(cluster, a_stranger(cluster, folder).context()) as stream:
        return asked(stream, "orlop.session.9, orlop.session.8")


def rubbish(cluster: RemoteCluster, folder: Path) -> str:
    return told(cluster, folder, frame(BINARY, os.urandom(50_000)))


def a_text(cluster: RemoteCluster, folder: Path) -> str:
    return told(cluster, folder, frame(TEXT, b"hello"))


def a_gigabyte(cluster: RemoteCluster, folder: Path) -> str:
    """Announced, and begun. The code of the close frame."""
    with connected(cluster, a_stranger(cluster, folder).context()) as stream:
        assert " 101 " in asked(stream)
        stream.write(struct.pack("!BBQ", 0x80 | BINARY, 0x80 | 127, 2**30) + bytes(4) + b"x" * 10_000)
        kind, data = read_frame(stream)
        assert kind == CLOSE
        return f"code {int.from_bytes(data[:2], 'big')}"


def a_foreign_certificate(cluster: RemoteCluster, folder: Path) -> str:
    """Of an authority of the same name, for a node that exists."""
    now_ms = time.time_ns() // 1_000_000
    found = cluster.get("/v1/cluster")["id"]
    node = cluster.get("/v1/nodes")["nodes"][0]["id"]
    made = signing.make_authority(found, signing.make_key(secrets.token_bytes(48)), secrets.token_bytes(16), now_ms)
    credentials = Credentials(folder)
    key = credentials.key(secrets.token_bytes(48))
    request = signing.make_request(key, node)
    credentials.keep(signing.issue_agent(made, request, node, secrets.token_bytes(16), now_ms), made.certificate)
    context = credentials.context()
    context.load_verify_locations(cafile=str(cluster.server.data / "ca.pem"))
    try:
        with connected(cluster, context) as stream:
            return asked(stream)  # TLS 1.3 tells a client when it reads
    except ssl.SSLError as error:
        return str(error.reason)


def plain_http(cluster: RemoteCluster, folder: Path) -> str:
    with connected(cluster, None) as stream:
        return asked(stream)


OTHER_VERSION = "the other side speaks version 9 of the session, and this one speaks version 1"


@pytest.mark.parametrize(
    ("say", "answer", "logged"),
    [
        (wrong_version, OTHER_VERSION, f"the session with node odd.* at .* is refused: {OTHER_VERSION}"),
        (wrong_versions_offered, f"426 (.|\n)*{OTHER_VERSION}", f"an agent at .* is refused: {OTHER_VERSION}"),
        (rubbish, "a message is not JSON", "the session with node odd.* at .* is refused: a message is not JSON"),
        (
            a_text,
            "expected a binary message",
            "the session with node odd.* at .* is refused: expected a binary message",
        ),
        (a_gigabyte, "code 1009", "the session with node odd.* at .* breaks off: .*exceeds limit"),
        (a_foreign_certificate, "UNKNOWN_CA", "TLS with .* failed: CERTIFICATE_VERIFY_FAILED"),
        (plain_http, "400 (.|\n)*this port speaks TLS", "a connection from .* does not speak TLS: refused"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_no_agents_session_is_refused(
    cluster: RemoteCluster, tmp_path: Path, say: Callable[[RemoteCluster, Path], str], answer: str, logged: str
) -> None:
    mark = len(cluster.server.said())
    with undisturbed(cluster):
        found = say(cluster, tmp_path / "tls")
        assert re.search(answer, found), found
        wait_until(lambda: re.search(logged, said_since(cluster, mark)), f"it is logged; {said_since(cluster, mark)}")
    assert "Traceback" not in said_since(cluster, mark)
    assert not any("odd" in name for name in cluster.nodes())


def test_rubbish_on_the_port_and_silent_strangers_disturb_nobody(cluster: RemoteCluster) -> None:
    address = (URL(cluster.url).host, URL(cluster.url).port)
    with undisturbed(cluster):
        for sent in (
            b"GET /v1/cluster HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\xff\xff" + b"\0" * 70_000,
            os.urandom(100_000),
            struct.pack("!BBQ", 0x82, 0xFF, 2**30),
            b"",
        ):
            with socket.create_connection(address, timeout=20) as connection, contextlib.suppress(OSError):
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    continue
        held = [socket.create_connection(address, timeout=20) for _ in range(300)]
        try:
            assert {cluster.nodes()[name] for name in NODES} == {"ready"}
        finally:
            for connection in held:
                connection.close()
    assert "does not speak TLS" in cluster.server.said()


# --- nodes of other clusters ---


def test_a_node_changes_its_cluster_only_when_told_to(hosts: Hosts) -> None:
    former, other = RemoteCluster(hosts), RemoteCluster(hosts)
    try:
        former.start_server()
        other.start_server()
        agent = former.add_agent("mover")
        former.deploy("/moving", 1)
        ((task, pids),) = agent.tasks().items()
        agent.stop()
        agent.arguments = ("agent", "--join", other.url)
        agent.start("--token", other.token())
        wait_until(lambda: "is not a server of this cluster" in agent.said(), "it stays with its cluster")
        agent.stop()
        agent.start("--token", other.token(), "--rejoin")
        other.wait_ready("mover")
        orphans = wait_until(lambda: other.get("/v1/cluster")["orphans"], "its task is an orphan there")
        assert [orphan["task"] for orphan in orphans] == [task]
        assert agent.tasks() == {task: pids}, "which nobody stops"
        agent.stop()
        agent.start()
        wait_until(lambda: agent.said().count(" of cluster ") >= 4, "it is up again")
        wait_until(lambda: other.get("/v1/cluster")["orphans"], "it is still known as an orphan")
        assert agent.tasks() == {task: pids}
    finally:
        former.close()
        other.close()


def test_a_server_of_another_cluster_gets_no_token_and_no_node(cluster: RemoteCluster, hosts: Hosts) -> None:
    other = RemoteCluster(hosts)
    try:
        other.start_server()
        token = cluster.token()
        agent = other.agent("stray")
        agent.start("--token", token)
        assert agent.ended() == 1
        assert "another cluster than the token's" in agent.said()
        assert "stray" not in other.nodes()
        # a node of one cluster that is sent to another: its certificate is of a foreign authority there
        member = cluster.agents["n1"]
        elsewhere = Process(member.host, "agent", {"ORLOP_AGENT__NAME": "n1"}, "agent", "--join", other.url)
        elsewhere.log = member.host.folder / "elsewhere.log"
        member.kill()
        elsewhere.start()
        wait_until(lambda: "is not a server of this cluster" in elsewhere.said(), "it does not trust that server")
        elsewhere.kill()
        assert other.nodes() == {}
        member.start()
        cluster.wait_ready("n1", "n2", "n3")
    finally:
        other.close()

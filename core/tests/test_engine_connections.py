"""Connections to a node's engine, through an agent over real sockets and directly. Here the engine is a socket."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from serving import Agent, Serving, eventually, heard, hello, serving

from orlop.agent import engine_service
from orlop.agent.remote import RemoteServers
from orlop.agent.runtimes.docker_connection import DirectConnection, connect_directly
from orlop.agent.runtimes.docker_errors import EngineLost
from orlop.agent.runtimes.interface import Connection
from orlop.agent.stream_service import serve_stream
from orlop.framework import NotAvailable
from orlop.model import streams
from orlop.model.messages import OpenStreams

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
NODE = "n1"
MANY = 200
TRIES = 500


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100_000):
        writer.write(data)
        await writer.drain()
    writer.write(b"and then")


async def takes_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.Event().wait()


class Socket:
    """An engine that says what it is told to. open: connections that it has now."""

    name = "docker"

    def __init__(self, path: Path, talk: Talk) -> None:
        self.url = f"unix://{path}"
        self.open = 0
        self.unavailable = ""
        self._talk = talk
        self._path = path
        self._talking: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._path)

    async def die(self) -> None:
        """As a process does: it takes no more connections, and those that it has end."""
        if self._server is not None:
            self._server.close()
        for task in self._talking:
            task.cancel()
        if self._talking:
            await asyncio.wait(self._talking)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talking.add(task)
        self.open += 1
        try:
            await self._talk(reader, writer)
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self.open -= 1
            self._talking.discard(task)
            writer.close()

    async def connect_engine(self) -> DirectConnection:
        """See `HasEngine`."""
        if self.unavailable:
            raise EngineLost(self.unavailable)
        return await connect_directly(self.url)


async def serve_asked(servers: RemoteServers, link: Agent, runtimes: dict[str, Any], served: set[Any]) -> None:
    """What an agent does with OpenStreams, for ever."""
    async with asyncio.TaskGroup() as group:

        async def serve(stream_id: str) -> None:
            await serve_stream(await servers.dial_stream(stream_id), runtimes)

        while True:
            for stream_id in (await heard(link, OpenStreams)).ids:
                task = group.create_task(serve(stream_id))
                served.add(task)
                task.add_done_callback(served.discard)


class Node:
    """engine: as the test made it. served: streams that the agent serves now. agent: to be cancelled to kill it."""

    def __init__(self, one: Serving, engine: Socket) -> None:
        self.server = one.server
        self.engine = engine
        self.served: set[Any] = set()
        self.agent: asyncio.Task[None] | None = None

    async def open(self) -> Connection:
        return await self.server.host.open_engine(NODE)

    async def nothing_left(self) -> None:
        """All that is left of connections is what waits to be used."""
        idle = self.server.remote.streams._nodes[NODE].idle
        await eventually(lambda: self.engine.open == 0, "the engine has no connection left")
        await eventually(lambda: len(self.served) == len(idle), "the agent serves idle streams only")


@asynccontextmanager
async def node(folder: Path, talk: Talk = echo, *, auth: bool = True, way: str = "tunnel") -> AsyncIterator[Node]:
    engine = Socket(folder / "engine.sock", talk)
    await engine.start()
    async with serving(folder, auth=auth) as one:
        made = Node(one, engine)
        if way == "direct":
            one.server.remote.local_engines[NODE] = engine.connect_engine
            try:
                yield made
            finally:
                await engine.die()
            return
        servers = await one.joined(NODE)
        link = await servers.connect()
        link.send(hello(NODE))
        made.agent = asyncio.create_task(serve_asked(servers, link, {"docker": engine}, made.served))
        try:
            await eventually(lambda: NODE in one.server.remote.streams._nodes, "the session has begun")
            yield made
        finally:
            made.agent.cancel()
            await asyncio.wait([made.agent])
            await engine.die()


async def read_all(connection: Connection) -> bytes:
    received = bytearray()
    while data := await connection.read():
        assert len(data) <= 256 * 1024
        received += data
    return bytes(received)


async def said_back(connection: Connection, data: bytes) -> bytes:
    """All that comes back for it, after its end too."""

    async def give() -> None:
        for start in range(0, len(data), 100_000):
            await connection.write(data[start : start + 100_000])
        await connection.write_eof()

    giving = asyncio.create_task(give())
    received = await read_all(connection)
    await giving
    return received


ways = pytest.mark.parametrize("way", ["tunnel", "direct"])


@ways
async def test_bytes_go_there_and_come_back_and_more_after_their_end(tmp_path: Path, way: str) -> None:
    data = secrets.token_bytes(3_000_001)
    async with node(tmp_path, way=way) as one:
        connection = await one.open()
        assert await said_back(connection, data) == data + b"and then"
        assert await connection.read() == b"", "the end stays the end"
        await connection.close()
        if way == "tunnel":
            await one.nothing_left()


async def test_frames_of_any_size_come_in_pieces(tmp_path: Path) -> None:
    data = secrets.token_bytes(2**20)
    async with node(tmp_path) as one:
        connection = await one.open()
        await connection.write(data)
        await connection.write(b"")
        await connection.write_eof()
        assert await read_all(connection) == data + b"and then"
        await connection.close()


async def test_many_at_once(tmp_path: Path) -> None:
    async with node(tmp_path, auth=False) as one:

        async def session() -> None:
            data = secrets.token_bytes(20_000)
            connection = await one.open()
            assert await said_back(connection, data) == data + b"and then"
            await connection.close()

        tasks = len(asyncio.all_tasks())
        await asyncio.gather(*(session() for _ in range(MANY)))
        await one.nothing_left()
        idle = one.server.remote.streams._nodes[NODE].idle
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks + 6 * len(idle), "their tasks have ended")


@ways
async def test_a_node_says_why_its_engine_cannot_be_had(tmp_path: Path, way: str) -> None:
    async with node(tmp_path, way=way) as one:
        one.engine.unavailable = "the Docker Engine is away"
        with pytest.raises(NotAvailable, match="the Docker Engine is away"):
            await one.open()
        one.engine.unavailable = ""
        await one.engine.die()
        with pytest.raises(NotAvailable, match="cannot be reached"):
            await one.open()
        with pytest.raises(NotAvailable, match="node n9 has no session"):
            await one.server.host.open_engine("n9")


async def test_runtimes_without_an_engine_say_so() -> None:
    class Other:
        name = "docker"

    with pytest.raises(LookupError, match="this node has no docker runtime"):
        await engine_service.connect_engine({})
    with pytest.raises(ValueError, match="gives no connections"):
        await engine_service.connect_engine({"docker": Other()})  # type: ignore[dict-item]


async def test_an_address_of_another_kind_is_named() -> None:
    with pytest.raises(ValueError, match="unix:// or tcp:// address; this node's is at ssh://"):
        await connect_directly("ssh://somewhere")
    with pytest.raises(EngineLost, match="cannot be reached"):
        await connect_directly(f"tcp://127.0.0.1:{free_port()}")


async def test_an_agent_of_an_earlier_version_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with node(tmp_path) as one:
        monkeypatch.delitem(streams._REQUESTS, "engine")
        with pytest.raises(NotAvailable, match="type is unknown: 'engine': its agent may be of an earlier version"):
            await one.open()


@ways
async def test_nothing_is_left_when_the_client_goes_in_the_middle(tmp_path: Path, way: str) -> None:
    async with node(tmp_path, way=way) as one:
        connections = [await one.open() for _ in range(5)]
        for connection in connections:
            await connection.write(b"x" * 50_000)
        reading = [asyncio.create_task(read_all(connection)) for connection in connections]
        await eventually(lambda: one.engine.open == 5, "the engine has them all")
        for connection in connections:
            await connection.close()
            await connection.close()
        for done in await asyncio.gather(*reading, return_exceptions=True):
            assert isinstance(done, ConnectionError)
        for connection in connections:
            with pytest.raises(ConnectionError):
                await connection.write(b"late")
        await eventually(lambda: one.engine.open == 0, "the engine has no connection left")
        if way == "tunnel":
            await one.nothing_left()


@ways
async def test_what_is_not_taken_holds_the_writer_back_and_is_let_go_of(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_service, "LOOK_S", 0.05)
    async with node(tmp_path, takes_nothing, way=way) as one:
        connection = await one.open()
        written = 0

        async def write() -> None:
            nonlocal written
            while True:
                await connection.write(b"x" * 100_000)
                written += 1

        writing = asyncio.create_task(write())
        before = -1
        while before != written:  # until nothing moves any more
            before = written
            await asyncio.sleep(0.3)
        assert 0 < written < 200, "20 MB are not read ahead"
        await connection.close()
        with pytest.raises(ConnectionError):
            await writing
        if way == "tunnel":
            await eventually(lambda: len(one.served) == 2, "the agent has noticed")


@ways
@pytest.mark.parametrize("unread", [0, 100_000], ids=["quiet", "unread"])
async def test_an_engine_that_dies_is_an_error(tmp_path: Path, way: str, unread: int) -> None:
    async def waits(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"so far")
        await asyncio.Event().wait()

    async with node(tmp_path, waits, way=way) as one:
        connection = await one.open()
        assert await connection.read() == b"so far"
        await connection.write(b"x" * unread)
        reading = asyncio.create_task(read_all(connection))
        await one.engine.die()
        with pytest.raises(ConnectionError, match="Docker Engine"):
            await reading
        await connection.close()
        if way == "tunnel":
            await one.nothing_left()


@ways
async def test_an_engine_may_say_more_after_it_has_heard_enough(tmp_path: Path, way: str) -> None:
    async def full(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(10)
        writer.get_extra_info("socket").shutdown(socket.SHUT_RD)
        writer.write(b"enough")
        await writer.drain()
        await asyncio.Event().wait()

    async with node(tmp_path, full, way=way) as one:
        connection = await one.open()
        with contextlib.suppress(ConnectionError):  # directly, the writer is told
            for _ in range(30):
                await connection.write(b"x" * 100_000)
        assert await connection.read() == b"enough"
        await connection.close()


async def test_an_agent_that_dies_is_an_error(tmp_path: Path) -> None:
    async with node(tmp_path) as one:
        connection = await one.open()
        await connection.write(b"x")
        assert await connection.read() == b"x"
        reading = asyncio.create_task(read_all(connection))
        assert one.agent is not None
        one.agent.cancel()
        with pytest.raises(ConnectionError):
            await reading
        await connection.close()
        await eventually(lambda: one.engine.open == 0, "the engine has no connection left")


async def test_routes_know_the_nodes(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        for name in ("n2", "n1"):
            await one.session(name)
        await eventually(lambda: len(one.server.host.nodes()) == 2, "both are known")
        assert [node.info.name for node in one.server.host.nodes()] == ["n1", "n2"]
        assert [candidate.node for candidate in one.server.host.candidates()] == one.server.host.nodes()
        assert all(candidate.free == candidate.node.info.resources for candidate in one.server.host.candidates())
        known = one.server.host.nodes()
        assert one.server.host.nodes() is known, "nobody has to look at them again"
        await one.session("n0")
        await eventually(lambda: len(one.server.host.nodes()) == 3, "a third is known")
        assert [node.info.name for node in one.server.host.nodes()] == ["n0", "n1", "n2"]


@ways
async def test_a_read_that_is_called_off_loses_nothing(tmp_path: Path, way: str) -> None:
    async with node(tmp_path, auth=False, way=way) as one:
        connection = await one.open()
        received = b""
        for number in range(TRIES):
            await connection.write(b"x")
            reading = asyncio.create_task(connection.read())
            for _ in range(number % 9):
                await asyncio.sleep(0)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                received += await reading
            while len(received) <= number:
                received += await connection.read()
        await connection.write_eof()
        received += await read_all(connection)
        assert received == b"x" * TRIES + b"and then"
        await connection.close()

"""The HTTP client of engines: its grammar with bytes cut at any place, its connections against a scripted server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from direct_connections import dial_directly
from hypothesis import given
from hypothesis import strategies as st
from waiting import eventually

from orlop.framework import Node, Resources
from orlop.model.nodes import NodeInfo
from orlop_swarm.engines.client import IDLE_MAX, EngineClient
from orlop_swarm.engines.exchange import BrokenAnswer, End, Exchange, Head, UpgradingAnswer, upgrading_request
from orlop_swarm.engines.interface import EngineNode, EngineUnavailable
from orlop_swarm.engines.pool import EnginePool

WITHIN_S = 20.0
NODE = EngineNode(id="n", name="node-1", address="10.0.0.1")
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

bodies = st.lists(st.binary(min_size=1, max_size=200), max_size=6)
framings = st.sampled_from(["length", "chunked", "end"])


def written(pieces: list[bytes], framing: str) -> bytes:
    body = b"".join(pieces)
    if framing == "length":
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-One: a\r\n\r\n%b" % (len(body), body)
    if framing == "chunked":
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-One: a\r\n\r\n" + chunks + b"0\r\n\r\n"
    return b"HTTP/1.1 200 OK\r\nX-One: a\r\n\r\n" + body


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if end > start]


@given(bodies, framings, st.lists(st.integers(0, 10_000), max_size=20))
def test_an_answer_means_the_same_wherever_its_bytes_are_cut(
    pieces: list[bytes], framing: str, places: list[int]
) -> None:
    exchange = Exchange()
    exchange.request("GET", "/x", {}, 0)
    exchange.end()
    events = [event for piece in cut(written(pieces, framing), places) for event in exchange.receive(piece)]
    if framing == "end":
        events += exchange.receive(b"")
    head, *rest = events
    assert isinstance(head, Head)
    assert (head.status, head.headers["x-one"]) == (200, "a")
    assert rest[-1] is End.END
    assert b"".join(one for one in rest if isinstance(one, bytes)) == b"".join(pieces)
    assert exchange.reusable is (framing != "end")


@given(bodies, st.sampled_from(["length", "chunked"]), st.integers(0, 10_000))
def test_an_answer_that_ends_early_is_broken(pieces: list[bytes], framing: str, place: int) -> None:
    data = written(pieces, framing)
    exchange = Exchange()
    exchange.request("GET", "/x", {}, 0)
    exchange.end()

    def receive() -> None:
        for piece in (data[: place % len(data)], b""):
            list(exchange.receive(piece))

    with pytest.raises(BrokenAnswer):
        receive()


@given(st.binary(max_size=300), st.booleans(), st.lists(st.integers(0, 10_000), max_size=20))
def test_what_follows_the_head_of_an_upgrade_is_handed_on_as_it_is(
    said: bytes, continued: bool, places: list[int]
) -> None:
    head = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nUpgrade: tcp\r\n\r\n"
    before = b"HTTP/1.1 100 Continue\r\n\r\n" if continued else b""
    answer, left = UpgradingAnswer(), b""
    pieces = cut(before + head + said, places)
    for position, piece in enumerate(pieces):
        if answer.receive(piece):
            left = b"".join(pieces[position + 1 :])
            break
    assert answer.is_connection
    kept, rest = answer.parts()
    assert (kept, rest + left) == (head, said)


@pytest.mark.parametrize(
    ("head", "connection"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\nContent-Length: 3\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", False),
        (b"HTTP/1.1 409 Conflict\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n", False),
    ],
)
def test_which_answers_are_connections(head: bytes, connection: bool) -> None:
    answer = UpgradingAnswer()
    assert answer.receive(head)
    assert answer.is_connection is connection


@pytest.mark.parametrize(
    "said",
    [b"", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 abc no\r\n\r\n", b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", b"x" * 70_000],
)
def test_what_is_no_answer_is_said_to_be_broken(said: bytes) -> None:
    with pytest.raises(BrokenAnswer):
        UpgradingAnswer().receive(said)


def test_a_request_cannot_smuggle_another_one() -> None:
    with pytest.raises(ValueError, match="cannot be said"):
        upgrading_request("POST", "/x", {"X": "a\r\nEvil: b"}, b"")
    with pytest.raises(ValueError, match="cannot be said"):
        Exchange().request("GET", "/x y", {}, 0)


# Against a server


@contextlib.asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[tuple[EngineClient, list[asyncio.StreamWriter]]]:
    """A client of a server that does this on each connection, and its connections."""
    seen: list[asyncio.StreamWriter] = []
    serving: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await script(reader, writer)
        writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer)
        serving.append(asyncio.get_running_loop().create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    client = EngineClient(NODE, dial_directly(NODE.name, f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    try:
        async with asyncio.timeout(WITHIN_S):
            yield client, seen
    finally:
        await client.close()
        server.close()
        for writer in seen:
            writer.transport.abort()
        await asyncio.gather(*serving)


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def answering(*answers: bytes, then_close: bool = False) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await head_of(reader)
            writer.write(answer)
        if not then_close:
            await reader.read()

    return script


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nApi-Version: 1.41\r\n\r\nok"


async def text_of(client: EngineClient, method: str = "GET", **options: Any) -> str:
    return (await (await client.request(method, "/x", **options)).read()).decode()


async def test_connections_are_used_again() -> None:
    async with scripted(answering(*[OK] * 9)) as (client, seen):
        assert [await text_of(client) for _ in range(5)] == ["ok"] * 5
        assert len(seen) == 1
        texts = await asyncio.gather(*(text_of(client) for _ in range(IDLE_MAX + 3)))
        assert texts == ["ok"] * (IDLE_MAX + 3)
        assert len(seen) == IDLE_MAX + 3
        await asyncio.gather(*(text_of(client) for _ in range(IDLE_MAX)))
        assert len(seen) == IDLE_MAX + 3


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_connection_that_has_ended_while_it_waited_is_not_used(method: str) -> None:
    async with scripted(answering(OK, then_close=True)) as (client, seen):
        assert await text_of(client) == "ok"
        await seen[0].wait_closed()
        early = client._idle[0]._early
        assert early is not None
        await asyncio.wait([early])
        assert await text_of(client, method) == "ok"
        assert len(seen) == 2


async def test_what_changes_nothing_is_asked_again_and_nothing_else() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(OK)
        await head_of(reader)  # and goes away without an answer

    async with scripted(script) as (client, seen):
        assert await text_of(client) == "ok"
        assert await text_of(client) == "ok"
        assert len(seen) == 2
        with pytest.raises(EngineUnavailable, match="node-1"):
            await client.request("POST", "/x")
        assert len(seen) == 2


async def test_versions_are_brought_to_what_the_engine_knows() -> None:
    heads: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append(await head_of(reader))
            writer.write(OK)

    async with scripted(script) as (client, _):
        for version in ("1.99", "1.99", "1.30", ""):
            await text_of(client, version=version, query="a=b%20c")
        assert client.newest == "1.41"
        for client.oldest in ("1.4", "1.40", "1.44"):
            await text_of(client, version="1.30")
    targets = [head.split(b" ")[1].decode() for head in heads]
    assert targets[:4] == ["/v1.99/x?a=b%20c", "/v1.41/x?a=b%20c", "/v1.30/x?a=b%20c", "/x?a=b%20c"]
    assert targets[4:] == ["/v1.30/x", "/v1.40/x", "/v1.41/x"]


async def test_a_body_of_unknown_length_streams_both_ways_at_once() -> None:
    """The answer's pieces come while the request's are still being sent."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"transfer-encoding: chunked" in (await head_of(reader)).lower()
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while (size := int(await reader.readuntil(b"\r\n"), 16)) > 0:
            piece = await reader.readexactly(size)
            await reader.readexactly(2)
            writer.write(b"%x\r\n%b\r\n" % (size, piece.upper()))
        await reader.readexactly(2)
        writer.write(b"0\r\n\r\n")
        await reader.read()

    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        for number in range(20):
            yield b"piece %d" % number
            if number:
                assert await heard.get() == b"PIECE %d" % (number - 1)

    async with scripted(script) as (client, seen):
        response = await client.request("POST", "/x", body=body())
        async for piece in response.pieces():
            heard.put_nowait(piece)
        assert len(client._idle) == len(seen) == 1


async def test_an_answer_before_the_whole_body_is_given_at_once() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno")
        await reader.read()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536

    async with scripted(script) as (client, _):
        response = await client.request("POST", "/x", body=endless())
        assert (response.status, await response.read()) == (400, b"no")
        assert not client._idle


async def test_a_client_whose_body_breaks_off_is_not_taken_for_the_engine() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"a"
        raise ValueError("the client is gone")

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with scripted(script) as (client, _):
        with pytest.raises(ValueError, match="the client is gone"):
            await client.request("POST", "/x", body=broken())


async def test_a_body_that_breaks_off_after_the_answer_has_begun_ends_it() -> None:
    answered = asyncio.Event()

    async def broken() -> AsyncIterator[bytes]:
        yield b"a"
        await answered.wait()
        raise ValueError("the client is gone")

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await reader.read()

    async with scripted(script) as (client, _):
        pieces = (await client.request("POST", "/x", body=broken())).pieces()
        assert await anext(pieces) == b"x"
        answered.set()
        with pytest.raises(ValueError, match="the client is gone"):
            await anext(pieces)


async def test_an_engine_that_goes_in_the_middle_of_an_answer_is_told() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
    async with scripted(answering(half, then_close=True)) as (client, _):
        response = await client.request("GET", "/x")
        with pytest.raises(EngineUnavailable):
            await response.read()


async def test_who_wants_no_more_of_an_answer_is_gone_for_the_engine() -> None:
    gone = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        gone.set()

    async with scripted(script) as (client, _):
        response = await client.request("GET", "/x")
        pieces = response.pieces()
        assert isinstance(pieces, AsyncGenerator)
        async with contextlib.aclosing(pieces):
            assert await anext(pieces) == b"a"
        await response.close()
        await gone.wait()
        assert not client._idle


async def test_answers_have_a_limit() -> None:
    async with scripted(answering(written([b"x" * 100] * 10, "chunked"))) as (client, _):
        response = await client.request("GET", "/x")
        with pytest.raises(ValueError, match="longer than 500 bytes"):
            await response.read(500)


async def test_a_head_alone_is_a_whole_answer() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\nX-Stat: e30=\r\n\r\n"
    async with scripted(answering(head, OK)) as (client, seen):
        response = await client.request("HEAD", "/x")
        assert (response.headers["x-stat"], await response.read()) == ("e30=", b"")
        assert await text_of(client) == "ok"
        assert len(seen) == 1


async def test_an_upgraded_connection_ends_each_way_by_itself() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"Upgrade: tcp" in await head_of(reader)
        assert await reader.readexactly(2) == b"{}"
        writer.write(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\nfirst")
        writer.write((await reader.read()).upper())
        writer.write_eof()
        await reader.read()

    async with scripted(script) as (client, _):
        headers = {"Connection": "Upgrade", "Upgrade": "tcp", "Content-Type": "application/json"}
        upgraded = await client.upgrade("POST", "/exec/1/start", headers=headers, body=b"{}")
        assert (upgraded.status, upgraded.head) == (101, b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\n")
        connection = upgraded.connection
        assert connection is not None
        await connection.write(b"more")
        await connection.write_eof()
        said = b""
        while piece := await connection.read():
            said += piece
        assert said == b"firstMORE"
        await connection.close()


async def test_a_refused_upgrade_is_an_ordinary_answer() -> None:
    refusal = b'HTTP/1.1 409 Conflict\r\nContent-Length: 16\r\n\r\n{"message":"no"}'
    async with scripted(answering(refusal, OK)) as (client, seen):
        upgraded = await client.upgrade("POST", "/x", headers={"Connection": "Upgrade", "Upgrade": "tcp"})
        assert upgraded.connection is None
        response = upgraded.response
        assert response is not None
        assert (response.status, await response.read()) == (409, b'{"message":"no"}')
        assert await text_of(client) == "ok"
        assert len(seen) == 1


async def test_an_engine_that_is_not_there_is_told() -> None:
    client = EngineClient(NODE, dial_directly(NODE.name, "unix:///nonexistent/docker.sock"))
    with pytest.raises(EngineUnavailable, match="node-1"):
        await client.request("GET", "/_ping")
    with pytest.raises(EngineUnavailable, match="node-1"):
        await client.upgrade("POST", "/x")


async def test_the_connections_of_a_node_that_is_gone_are_closed() -> None:
    async with scripted(answering(OK)) as (client, seen):
        nodes = [Node(info=NodeInfo(id="n", name="n", address="", resources=Resources(), runtimes=("docker",)))]
        pool = EnginePool(lambda: nodes, lambda _id, _name: client._dial)
        assert await text_of(pool.engine("n")) == "ok"
        nodes = []
        assert pool.engines() == []
        await eventually(seen[0].is_closing, "its connection to be closed")

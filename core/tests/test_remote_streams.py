"""Streams that agents dial, over real sockets."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from serving import (
    Agent,
    Serving,
    eventually,
    heard,
    hello,
    serving,
    still_there,
)

from orlop.agent.remote import RemoteServers, ServerRefused
from orlop.agent.runtimes.interface import UnknownTask
from orlop.agent.session import LinkClosed
from orlop.agent.stream_service import serve_stream
from orlop.agent.streams import StreamClosed, StreamEnd, local_stream
from orlop.framework import NotAvailable
from orlop.model.messages import (
    OpenStreams,
)
from orlop.model.streams import Accepted, Fault, OutputRequest, Rejected, decode_answer, decode_request, encode
from orlop.server.streams import ASKED_PER_NODE_MAX, Streams
from orlop.server.streams import Refused as StreamRefused


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


async def test_more_streams_at_once_than_a_node_is_asked_for_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path, auth=False) as one, node_with(one, Output([b"x"])):
        opening = (one.server.remote.streams.open("n1", REQUEST) for _ in range(ASKED_PER_NODE_MAX * 2))
        for stream in await asyncio.gather(*opening):
            assert await read_all(stream) == b"x"
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


async def test_what_was_taken_is_replaced_a_little_later(tmp_path: Path) -> None:
    async with serving(tmp_path) as one, node_with(one, Output([b"x"])):
        streams = one.server.remote.streams
        known = streams._nodes["n1"]
        await eventually(lambda: len(known.idle) == 2, "streams are dialled in advance")
        first = await streams._take("n1", 1)
        assert not known.asked, "its user comes first"
        second = await streams._take("n1", 1)
        assert len(known.asked) == 2, "there is none any more"
        await eventually(lambda: len(known.idle) == 2, "both are replaced")
        third = await streams._take("n1", 1)
        await eventually(lambda: len(known.idle) == 2, "one is replaced")
        for stream in (first, second, third):
            await stream.close()


@pytest.mark.parametrize("how", ["its session ends", "it cannot be asked", "this server leads no more"])
async def test_who_waits_for_a_node_that_has_no_session_any_more_is_told_at_once(how: str) -> None:
    streams = Streams()
    asked: list[OpenStreams] = []

    def ask(message: OpenStreams) -> None:
        if len(asked) == 2 and how == "it cannot be asked":
            raise LinkClosed(how)
        asked.append(message)

    def open_one() -> asyncio.Task[StreamEnd]:
        return asyncio.create_task(streams.open("n1", OutputRequest(task="t", runtime="process", output="stdout")))

    streams.session_began("n1", ask)
    opening = [open_one()]
    await eventually(lambda: bool(streams._nodes["n1"].waiting), "it waits")
    assert len(asked) == 2
    match how:
        case "its session ends":
            streams.session_ended("n1", ask)
        case "this server leads no more":
            streams.let_go()
        case _:
            opening.append(open_one())
    for one in opening:
        with pytest.raises(NotAvailable, match="no session"):
            async with asyncio.timeout(5):
                await one


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

"""Answers of an engine in all forms, whole and broken."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import eventually

from orlop.agent.runtimes import docker_http
from orlop.agent.runtimes.docker_errors import EngineLost
from orlop.agent.runtimes.docker_http import EngineHttp

WITHIN_S = 30.0
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"
CHUNKED = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n3\r\nbcd\r\n0\r\n\r\n"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nz"


class Scripted:
    """Answers each request on a connection with the next of its answers, piece by piece; an empty one: with its end."""

    def __init__(self, *answers: list[bytes]) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = next((int(line[16:]) for line in head.split(b"\r\n") if line[:16] == b"Content-Length: "), 0)
                self.requests.append(head + await reader.readexactly(size))
                pieces = self.answers.pop(0)
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if not pieces:
                    return


@contextlib.asynccontextmanager
async def asked(
    folder: Path, *answers: list[bytes], timeout_s: float = WITHIN_S
) -> AsyncIterator[tuple[Scripted, EngineHttp]]:
    engine, path = Scripted(*answers), folder / "engine.sock"
    http = EngineHttp(f"unix://{path}", timeout_s)
    async with await asyncio.start_unix_server(engine.serve, path):
        try:
            yield engine, http
        finally:
            http.close()


async def test_calls_follow_one_another_on_one_connection(tmp_path: Path) -> None:
    async with asked(tmp_path, [WHOLE], [CHUNKED], [EMPTY], [WHOLE]) as (engine, http):
        assert await http.call("GET", "/a") == (200, b"ab")
        assert await http.call("POST", "/b?c=d", b'{"e":1}') == (201, b"abcd")
        assert await http.call("POST", "/f") == (204, b"")
        assert await http.call("GET", "/g") == (200, b"ab")
        assert engine.connections == 1
        json = b"Content-Type: application/json\r\nContent-Length: 7"
        assert engine.requests[:3] == [
            b"GET /a HTTP/1.1\r\nHost: docker\r\n\r\n",
            b"POST /b?c=d HTTP/1.1\r\nHost: docker\r\n" + json + b'\r\n\r\n{"e":1}',
            b"POST /f HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n\r\n",
        ]


async def test_calls_side_by_side_have_connections_of_their_own(tmp_path: Path) -> None:
    async with asked(tmp_path, *[[WHOLE]] * 40) as (engine, http):
        for _ in range(2):
            assert await asyncio.gather(*(http.call("GET", "/") for _ in range(20))) == [(200, b"ab")] * 20
        assert engine.connections <= 20 + 20 - docker_http.IDLE_CONNECTIONS_MAX


@given(st.sampled_from([(WHOLE, (200, b"ab")), (CHUNKED, (201, b"abcd")), (EMPTY, (204, b""))]), st.data())
def test_an_answer_may_come_in_any_pieces(told: tuple[bytes, tuple[int, bytes]], data: st.DataObject) -> None:
    raw, expected = told
    cuts = sorted({0, len(raw), *data.draw(st.lists(st.integers(0, len(raw)), max_size=6))})
    pieces = [raw[begin:end] for begin, end in itertools.pairwise(cuts)]

    async def run() -> None:
        connection = docker_http._Connection()
        connection.connection_made(Noted())
        answer = asyncio.ensure_future(connection.ask(b"request"))
        await asyncio.sleep(0)
        for piece in pieces:
            assert not answer.done()
            connection.data_received(piece)
            await asyncio.sleep(0)
        assert await answer == expected
        assert connection.reusable

    asyncio.run(run())


class Noted(asyncio.Transport):
    """Takes everything."""

    def write(self, data: object) -> None:
        pass

    def abort(self) -> None:
        pass


async def test_a_connection_that_is_to_be_closed_is_not_used_again(tmp_path: Path) -> None:
    async with asked(tmp_path, [LAST], [WHOLE]) as (engine, http):
        assert await http.call("GET", "/") == (200, b"z")
        assert await http.call("GET", "/") == (200, b"ab")
        assert engine.connections == 2


async def test_a_kept_connection_that_the_engine_has_closed_is_not_used_again(tmp_path: Path) -> None:
    async with asked(tmp_path, [WHOLE], [WHOLE]) as (engine, http):
        await http.call("GET", "/")
        engine.writers[0].close()
        await eventually(lambda: not http._idle[0].reusable, "it is noticed")
        assert await http.call("GET", "/") == (200, b"ab")
        assert engine.connections == 2


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([], "went away"),
        ([WHOLE[:-1], b""], "does not answer"),
        ([b"hello\r\n\r\n"], "something that is no HTTP"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100], "more than 99 bytes"),
    ],
)
async def test_an_engine_that_fails_is_lost_and_another_call_begins_anew(
    tmp_path: Path, pieces: list[bytes], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_http, "ANSWER_BYTES_MAX", 99)
    within_s = 0.2 if "not answer" in reason else WITHIN_S
    async with asked(tmp_path, pieces, [WHOLE], timeout_s=within_s) as (engine, http):
        with pytest.raises(EngineLost, match=reason):
            await http.call("GET", "/")
        assert await http.call("GET", "/") == (200, b"ab")
        assert engine.connections == 2


async def test_what_was_not_asked_ends_the_connection(tmp_path: Path) -> None:
    async with asked(tmp_path, [WHOLE], [WHOLE]) as (engine, http):
        await http.call("GET", "/")
        engine.writers[0].write(WHOLE)
        await eventually(lambda: not http._idle[0].reusable, "it is noticed")
        assert await http.call("GET", "/") == (200, b"ab")
        assert engine.connections == 2


async def test_a_call_that_is_given_up_takes_its_connection_along(tmp_path: Path) -> None:
    async with asked(tmp_path, [WHOLE[:10]], [WHOLE]) as (engine, http):
        call = asyncio.ensure_future(http.call("GET", "/"))
        await eventually(lambda: engine.requests, "it is asked")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await http.call("GET", "/") == (200, b"ab")
        assert engine.connections == 2


async def test_nobody_listens(tmp_path: Path) -> None:
    http = EngineHttp(f"unix://{tmp_path}/absent.sock", WITHIN_S)
    with pytest.raises(EngineLost, match="cannot be reached"):
        await http.call("GET", "/")

"""Connections to a real engine through real agents: what goes in comes out, and all that goes away is noticed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from engine_ways import DIRECT, LOCAL, REMOTE, Ways, call, execute, piped, read_all, request, ways
from engines import Engine
from running import sockets
from serving import eventually

from orlop.agent.runtimes.docker_connection import connect_directly
from orlop.agent.runtimes.interface import Connection
from orlop.framework import NotAvailable

pytestmark = pytest.mark.real
WITHIN_S = 60.0
MANY = 200
SOME = 10
PIECE_BYTES = 100_000


@contextlib.asynccontextmanager
async def running(folder: Path, engine: Engine) -> AsyncIterator[tuple[Ways, str]]:
    """The ways, and a container that sleeps."""
    await asyncio.to_thread(engine.load_busybox)
    async with ways(folder, engine) as found:
        connection = await found.open(DIRECT)
        body = {"Image": "busybox:latest", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}
        container = (await call(connection, "POST", "/containers/create", body))["Id"]
        await call(connection, "POST", f"/containers/{container}/start")
        await connection.close()
        try:
            yield found, container
        finally:
            if not engine.running:
                engine.start()
            engine.clear()


async def test_what_goes_in_comes_out_of_each_way(engine: Engine, tmp_path: Path) -> None:
    data = os.urandom(52_000_000)
    async with running(tmp_path, engine) as (found, container):
        for way in (LOCAL, REMOTE):
            connection = await found.open(way)
            said = await piped(connection, container, data, "sh", "-c", "cat; echo and then")
            await connection.close()
            assert len(said) == len(data) + 9, way
            assert hashlib.sha256(said).digest() == hashlib.sha256(data + b"and then\n").digest(), way


async def test_an_answer_comes_after_the_requests_own_end(engine: Engine, tmp_path: Path) -> None:
    async with running(tmp_path, engine) as (found, _):
        opened = [await found.open(way) for way in (DIRECT, LOCAL, REMOTE)]
        for connection in (*opened, await connect_directly(engine.tcp_url)):
            await connection.write(request("GET", "/_ping", None, "Connection: close"))
            await connection.write_eof()
            answer = await read_all(connection)
            await connection.close()
            assert answer.startswith(b"HTTP/1.1 200 OK"), connection
            assert answer.endswith(b"\r\n\r\nOK"), connection


async def test_many_sessions_at_once_leave_nothing(engine: Engine, tmp_path: Path) -> None:
    async with running(tmp_path, engine) as (found, container):

        async def session(number: int) -> None:
            connection = await found.open(REMOTE if number % 2 else LOCAL)
            try:
                if number % 10:
                    assert (await call(connection, "GET", f"/containers/{container}/json"))["Id"] == container
                else:
                    data = os.urandom(100_000)
                    assert await piped(connection, container, data, "cat") == data
            finally:
                await connection.close()

        await session(0)
        assert found.agent.process is not None
        tasks, pids = len(asyncio.all_tasks()), (os.getpid(), found.agent.process.pid)
        before = [sockets(pid) for pid in pids]
        await asyncio.gather(*(session(number) for number in range(2 * MANY)))
        await eventually(lambda: len(asyncio.all_tasks()) < tasks + SOME, "their tasks have ended")
        for pid, count in zip(pids, before, strict=True):
            await eventually(lambda pid=pid, count=count: sockets(pid) < count + SOME, "their sockets are closed")


@pytest.mark.parametrize("way", [LOCAL, REMOTE])
@pytest.mark.parametrize("words", [("cat", "/dev/zero"), ("sleep", "1000")], ids=["more to come", "input not taken"])
async def test_a_client_that_goes_in_the_middle_leaves_nothing(
    engine: Engine, tmp_path: Path, way: str, words: tuple[str, ...]
) -> None:
    async with running(tmp_path, engine) as (found, container):
        assert found.agent.process is not None
        pids = (os.getpid(), found.agent.process.pid)
        connection = await found.open(way)
        await connection.close()
        before = [sockets(pid) for pid in pids]
        connections = [await found.open(way) for _ in range(SOME)]
        for connection in connections:
            await execute(connection, container, *words)
        given: list[int] = []
        giving = [asyncio.create_task(give_forever(connection, given)) for connection in connections]
        before_this = -1
        while before_this != len(given):  # until nobody takes any more
            before_this = len(given)
            await asyncio.sleep(0.3)
        for connection in connections:
            await connection.close()
        for done in await asyncio.gather(*giving, return_exceptions=True):
            assert isinstance(done, ConnectionError)
        for pid, count in zip(pids, before, strict=True):
            await eventually(lambda pid=pid, count=count: sockets(pid) < count + SOME, "the sockets are closed")


async def give_forever(connection: Connection, given: list[int]) -> None:
    while True:
        await connection.write(bytes(PIECE_BYTES))
        given.append(PIECE_BYTES)


@pytest.mark.parametrize("way", [LOCAL, REMOTE])
@pytest.mark.parametrize("words", [("sleep", "1000"), ("cat", "/dev/zero")], ids=["quiet", "loud"])
async def test_an_engine_that_is_killed_is_an_error(
    engine: Engine, tmp_path: Path, way: str, words: tuple[str, ...]
) -> None:
    async with running(tmp_path, engine) as (found, container):
        connection = await found.open(way)
        await execute(connection, container, *words)
        reading = asyncio.create_task(drop_all(connection))
        await asyncio.to_thread(engine.kill)
        async with asyncio.timeout(WITHIN_S):
            with pytest.raises(ConnectionError):
                await reading
            await connection.close()
            with pytest.raises((NotAvailable, ConnectionError)):
                await found.open(way)
        await asyncio.to_thread(engine.start)

        await answers_again(found, way)


async def answers_again(found: Ways, way: str) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            with contextlib.suppress(NotAvailable, ConnectionError):
                connection = await found.open(way)
                assert await call(connection, "GET", "/_ping") == b"OK"
                await connection.close()
                return
            await asyncio.sleep(0.1)


async def drop_all(connection: Connection) -> None:
    while await connection.read():
        continue


async def test_an_agent_that_is_killed_is_an_error_and_the_next_one_serves(engine: Engine, tmp_path: Path) -> None:
    async with running(tmp_path, engine) as (found, container):
        connections = [await found.open(REMOTE) for _ in range(2)]
        await execute(connections[0], container, "sleep", "1000")
        await execute(connections[1], container, "cat", "/dev/zero")
        reading = [asyncio.create_task(drop_all(connection)) for connection in connections]
        found.agent.kill()
        async with asyncio.timeout(WITHIN_S):
            for done in await asyncio.gather(*reading, return_exceptions=True):
                assert isinstance(done, ConnectionError)
            for connection in connections:
                await connection.close()
            with pytest.raises(NotAvailable):
                await found.open(REMOTE)
        await found.agent.start(found.one)
        await answers_again(found, REMOTE)

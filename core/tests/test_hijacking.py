"""Connections that were taken over from HTTP: a client that is gone is noticed, one that only says no more is not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from aiohttp import web
from certificates import Certificates
from multidict import CIMultiDict
from ports import free_port
from waiting import eventually
from yarl import URL

from orlop import hijacking
from orlop.api.runner import OperatorRunner
from orlop.api.tls_site import TlsSite
from orlop.api.upgrading import hand_on_upgrade
from orlop.hijacking import taken_over

WITHIN_S: Final = 30.0
LIMIT_BYTES: Final = 65_536
REQUEST: Final = (
    b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
)
HEAD: Final = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
WAYS: Final = ("tcp", "unix", "tls")
RESET: Final = struct.pack("ii", 1, 0)

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter


class Taken:
    """A server that does this with each connection, and how it ended: "done", or the error's type."""

    def __init__(self, folder: Path, work: Callable[[Reader, Writer], Awaitable[None]]) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._certificates = Certificates(folder / "tls")
        self._path = folder / "taken.sock"
        self._work = work

    async def _take(self, request: web.Request) -> web.StreamResponse:
        try:
            async with taken_over(request, LIMIT_BYTES) as (reader, writer):
                writer.write(HEAD)
                await self._work(reader, writer)
        except OSError as error:
            self.ended.set_result(type(error).__name__)
        else:
            self.ended.set_result("done")
        return web.Response()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Taken]:
        application = web.Application()
        application.add_routes([web.post("/", self._take)])
        runner = OperatorRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.UnixSite(runner, str(self._path)).start()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[-1][1]
            self._tls_port = free_port()
            await TlsSite(runner, "127.0.0.1", self._tls_port, self._certificates.server).start()
            yield self
        finally:
            await runner.cleanup()

    @contextlib.asynccontextmanager
    async def behind_a_standby(self) -> AsyncIterator[Callable[[], socket.socket]]:
        """What makes a client's end, taken over, at a server that hands it on to this one; both with TLS; blocks."""
        target = URL(f"https://localhost:{self._tls_port}/")

        async def hand_on(request: web.Request) -> web.StreamResponse:
            answer = await hand_on_upgrade(request, target, CIMultiDict(), self._certificates.client())
            assert answer is not None, "it is reached"
            return answer

        application = web.Application()
        application.add_routes([web.post("/", hand_on)])
        runner = OperatorRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        port = free_port()
        await TlsSite(runner, "127.0.0.1", port, self._certificates.server).start()

        def connect() -> socket.socket:
            return self._greeted(self._with_tls(socket.create_connection(("127.0.0.1", port), WITHIN_S)))

        try:
            yield connect
        finally:
            await runner.cleanup()

    def _with_tls(self, raw: socket.socket) -> ssl.SSLSocket:
        context = self._certificates.client()
        return context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)

    @staticmethod
    def _greeted(client: socket.socket) -> socket.socket:
        client.sendall(REQUEST)
        said = b""
        while not said.endswith(HEAD):
            said += client.recv(1)
        return client

    def connect(self, way: str) -> socket.socket:
        """A client's end that has been taken over; blocks."""
        if way == "unix":
            made = socket.socket(socket.AF_UNIX)
            made.connect(str(self._path))
        else:
            made = socket.create_connection(("127.0.0.1", self.port if way == "tcp" else self._tls_port), WITHIN_S)
        return self._greeted(self._with_tls(made) if way == "tls" else made)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by each look at a connection, and looks are frequent."""
    seen: list[Any] = []
    look = hijacking.has_ended

    def looked(raw: Any) -> bool:
        seen.append(look(raw))
        return bool(seen[-1])

    monkeypatch.setattr(hijacking, "has_ended", looked)
    monkeypatch.setattr(hijacking, "LOOK_S", 0.02)
    return seen


async def nothing(reader: Reader, writer: Writer) -> None:
    await asyncio.Event().wait()


def fill(client: socket.socket) -> None:
    """Gives what nobody takes, until there is no room for more."""
    client.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        while True:
            client.sendall(bytes(LIMIT_BYTES))


def vanish(client: socket.socket) -> None:
    """As the system ends the connections of a client that is killed and has not read everything."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()


@pytest.mark.parametrize("full", [True, False], ids=["input not taken", "quiet"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_vanishes_is_noticed(tmp_path: Path, looks: list[Any], way: str, full: bool) -> None:
    async with Taken(tmp_path, nothing).running() as taken:
        client = await asyncio.to_thread(taken.connect, way)
        if full:
            await asyncio.to_thread(fill, client)
        assert not taken.ended.done()
        vanish(client)
        async with asyncio.timeout(WITHIN_S):
            assert await taken.ended == "ConnectionResetError"


@pytest.mark.parametrize("full", [True, False], ids=["input not taken", "quiet"])
async def test_a_standbys_client_that_vanishes_is_noticed_by_the_leader(
    tmp_path: Path, looks: list[Any], full: bool
) -> None:
    async with Taken(tmp_path, nothing).running() as taken, taken.behind_a_standby() as connect:
        client = await asyncio.to_thread(connect)
        if full:
            await asyncio.to_thread(fill, client)
        vanish(client)
        async with asyncio.timeout(WITHIN_S):
            assert await taken.ended == "ConnectionResetError"


async def test_a_leader_that_breaks_off_is_no_end_for_a_standbys_client(tmp_path: Path) -> None:
    async def break_off(reader: Reader, writer: Writer) -> None:
        await reader.readexactly(1)
        writer.transport.abort()

    async with Taken(tmp_path, break_off).running() as taken, taken.behind_a_standby() as connect:
        client = await asyncio.to_thread(connect)
        client.sendall(b"x")
        with pytest.raises(ssl.SSLEOFError):
            await asyncio.to_thread(client.recv, 1)
        client.close()


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_says_no_more_is_still_there(tmp_path: Path, looks: list[Any], way: str) -> None:
    async def late(reader: Reader, writer: Writer) -> None:
        said = await reader.read()
        before = len(looks)
        await eventually(lambda: len(looks) > before + 5, "it was looked at")
        writer.write(b"%d bytes" % len(said))
        await writer.drain()

    async with Taken(tmp_path, late).running() as taken:
        client = await asyncio.to_thread(taken.connect, way)
        client.sendall(b"word")
        if isinstance(client, ssl.SSLSocket):
            with contextlib.suppress(ssl.SSLError):  # Python's own waits for the other end's, and takes nothing else
                await asyncio.to_thread(client.unwrap)
        else:
            client.shutdown(socket.SHUT_WR)
            assert await asyncio.to_thread(client.recv, 100) == b"4 bytes"
        async with asyncio.timeout(WITHIN_S):
            assert await taken.ended == "done"
        client.close()
        assert not any(looks)


async def test_what_a_client_has_left_is_taken_though_it_is_gone(tmp_path: Path, looks: list[Any]) -> None:
    received = 0

    async def slowly(reader: Reader, writer: Writer) -> None:
        nonlocal received
        while piece := await reader.read(10_000):
            received += len(piece)
            before = len(looks)
            await eventually(lambda before=before: len(looks) > before, "it was looked at")

    async with Taken(tmp_path, slowly).running() as taken:
        client = await asyncio.to_thread(taken.connect, "unix")
        await asyncio.to_thread(client.sendall, bytes(150_000))
        client.close()
        async with asyncio.timeout(WITHIN_S):
            assert await taken.ended == "done"
    assert received == 150_000
    assert any(looks), "it was gone before all was taken"


async def test_the_system_looks_after_the_connection(tmp_path: Path) -> None:
    raw: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()

    async def look(reader: Reader, writer: Writer) -> None:
        await asyncio.sleep(0)
        raw.set_result(writer.get_extra_info("socket"))
        await reader.read()

    async with Taken(tmp_path, look).running() as taken:
        client = await asyncio.to_thread(taken.connect, "tcp")
        assert (await raw).getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        client.close()
        await taken.ended

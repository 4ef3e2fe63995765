"""TLS in which each direction ends by itself, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from certificates import Certificates
from multidict import CIMultiDict
from ports import free_port
from waiting import eventually
from yarl import URL

from orlop.agent.websocket import cut_connection
from orlop.api import half_close
from orlop.api.half_close import accept_tls, open_tls_connection
from orlop.api.runner import OperatorRunner
from orlop.api.tls_site import TlsSite
from orlop.api.upgrading import hand_on_upgrade
from orlop.hijacking import EndsByItself

LARGE = bytes(range(256)) * 4096 * 20
WITHIN_S = 30.0


@asynccontextmanager
async def served(context: ssl.SSLContext, handle: Any) -> AsyncIterator[tuple[int, list[BaseException]]]:
    """A listener whose connections' streams `handle` gets; its port, and why handshakes failed."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    failures: list[BaseException] = []
    handling: set[asyncio.Task[None]] = set()

    async def one(connection: socket.socket) -> None:
        reader = asyncio.StreamReader(limit=65_536)
        protocol = EndsByItself(reader)
        try:
            transport = await accept_tls(connection, lambda: protocol, context)
        except OSError as error:
            failures.append(error)
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            await handle(reader, writer)
        finally:
            writer.close()

    async def accept() -> None:
        while True:
            connection, _ = await loop.sock_accept(listener)
            handling.add(loop.create_task(one(connection)))

    accepting = loop.create_task(accept())
    try:
        async with asyncio.timeout(WITHIN_S):
            yield listener.getsockname()[1], failures
            if handling:
                await asyncio.wait(handling)
    finally:
        for task in (accepting, *handling):
            task.cancel()
        await asyncio.gather(accepting, *handling, return_exceptions=True)
        listener.close()


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def test_what_is_said_after_the_others_end_arrives(certificates: Certificates) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read(-1)
        writer.write(hashlib.sha256(data).hexdigest().encode())
        await writer.drain()
        writer.write_eof()

    async with served(certificates.server(), handle) as (port, _):
        reader, writer = await open_tls_connection("localhost", port, certificates.client(), 65_536)
        for start in range(0, len(LARGE), 100_000):
            writer.write(LARGE[start : start + 100_000])
            await writer.drain()
        writer.write_eof()
        assert await reader.read(-1) == hashlib.sha256(LARGE).hexdigest().encode()
        writer.close()


async def test_the_server_may_end_first(certificates: Certificates) -> None:
    received = asyncio.get_running_loop().create_future()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"over")
        writer.write_eof()
        received.set_result(await reader.read(-1))

    async with served(certificates.server(), handle) as (port, _):
        reader, writer = await open_tls_connection("localhost", port, certificates.client(), 65_536)
        assert await reader.read(-1) == b"over"
        writer.write(LARGE)
        writer.write_eof()
        assert await received == LARGE
        writer.close()


async def test_openssl_s_own_sockets_understand_it(certificates: Certificates) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(4) == b"ping"
        writer.write(LARGE)
        await writer.drain()

    def client(port: int) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S) as plain,
            certificates.client().wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            tls.sendall(b"ping")
            pieces = []
            while piece := tls.recv(65_536):
                pieces.append(piece)
            return b"".join(pieces)

    async with served(certificates.server(), handle) as (port, _):
        assert await asyncio.to_thread(client, port) == LARGE


async def test_a_reader_that_waits_holds_the_other_end_back(certificates: Certificates) -> None:
    sent = 0
    go = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        assert len(await reader.read(-1)) == sent

    async with served(certificates.server(), handle) as (port, _):
        _, writer = await open_tls_connection("localhost", port, certificates.client(), 65_536)
        with contextlib.suppress(TimeoutError):
            while True:
                writer.write(bytes(2**20))
                sent += 2**20
                await asyncio.wait_for(writer.drain(), 1.0)
                assert sent < 100 * 2**20, "nothing holds it back"
        go.set()
        await writer.drain()
        writer.write_eof()
        await eventually(lambda: writer.transport.get_write_buffer_size() == 0, "all is sent")
        writer.transport.abort()


async def test_an_end_without_tls_own_is_no_end(certificates: Certificates) -> None:
    seen: list[BaseException] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(-1)
        except OSError as error:
            seen.append(error)

    async with served(certificates.server(), handle) as (port, _):
        _, writer = await open_tls_connection("localhost", port, certificates.client(), 65_536)
        writer.write(b"a part")
        await writer.drain()
        below = writer.transport._below  # type: ignore[attr-defined]
        below.write_eof()
        await eventually(lambda: seen, "the server sees that it was cut")
        writer.transport.abort()
    assert "without an end of TLS" in str(seen[0])


async def test_whoever_has_no_certificate_is_told_and_refused(certificates: Certificates) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("it was let in")

    def client(port: int, context: ssl.SSLContext) -> str:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S) as plain,
            pytest.raises(ssl.SSLError) as failed,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            tls.recv(1)
        return str(failed.value)

    async with served(certificates.server(clients=True), handle) as (port, failures):
        said = await asyncio.to_thread(client, port, certificates.client())
        assert "certificate required" in said.lower()
        await eventually(lambda: failures, "the server knows why")


async def test_the_end_of_a_client_in_the_handshake_is_an_error(certificates: Certificates) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("it was let in")

    async with served(certificates.server(), handle) as (port, failures):
        for sent in (b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port)) as plain:
                plain.sendall(sent)
        await eventually(lambda: len(failures) == 3, "three handshakes have failed")


async def test_a_client_that_takes_nothing_does_not_keep_a_closed_connection(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half_close, "SHUTDOWN_WITHIN_S", 0.2)
    closing: list[asyncio.StreamWriter] = []
    gone: list[bool] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(50 * 2**20))
        writer.close()
        closing.append(writer)
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        gone.append(True)

    async with served(certificates.server(), handle) as (port, _):
        _, writer = await open_tls_connection("localhost", port, certificates.client(), 65_536)
        assert isinstance(writer.transport, asyncio.Transport)
        writer.transport.pause_reading()
        await eventually(lambda: gone, "it is closed")
        writer.transport.abort()


async def test_what_a_standby_hands_on_ends_one_direction_after_the_other(certificates: Certificates) -> None:
    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        data = await reader.read(-1)
        writer.write(hashlib.sha256(data).hexdigest().encode())
        await writer.drain()

    async with served(certificates.server(), lead) as (leads_on, _):

        async def hand_on(request: web.Request) -> web.StreamResponse:
            target = URL(f"https://localhost:{leads_on}/x")
            answer = await hand_on_upgrade(request, target, CIMultiDict(), certificates.client())
            assert answer is not None, "the leader is reached"
            return answer

        application = web.Application()
        application.router.add_post("/x", hand_on)
        runner = OperatorRunner(application, handler_cancellation=True)
        await runner.setup()
        port = free_port()
        try:
            await TlsSite(runner, "127.0.0.1", port, certificates.server).start()
            reader, writer = await open_tls_connection("localhost", port, certificates.client(), 65_536)
            writer.write(b"POST /x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            writer.write(LARGE)
            await writer.drain()
            writer.write_eof()
            assert await reader.read(-1) == hashlib.sha256(LARGE).hexdigest().encode()
            writer.close()
        finally:
            await runner.cleanup()


@pytest.mark.parametrize("rounds", range(6))
async def test_a_listener_that_stops_leaves_no_socket_open(certificates: Certificates, rounds: int) -> None:
    """rounds: of the event loop, after a client has connected. A socket that is left open fails the test."""
    runner = OperatorRunner(web.Application())
    await runner.setup()
    port = free_port()
    await TlsSite(runner, "127.0.0.1", port, certificates.server).start()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"\x16\x03")
        for _ in range(rounds):
            await asyncio.sleep(0)
        await runner.cleanup()


async def test_a_lost_connection_gives_nobody_its_socket(certificates: Certificates) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async with served(certificates.server(), handle) as (port, _):
        _, writer = await open_tls_connection("localhost", port, certificates.client(), 65_536)
        assert writer.get_extra_info("socket") is not None
        writer.close()
        await writer.wait_closed()
        assert writer.get_extra_info("socket") is None
        writer.transport.abort()


async def test_a_connection_that_has_ended_can_be_cut() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    ours.close()

    class Ended:
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return ours

    cut_connection(Ended(), reset=True)  # type: ignore[arg-type]

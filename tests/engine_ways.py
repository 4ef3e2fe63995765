"""Ways to a real engine: directly, through an agent in the server's process, through one in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import orjson
from engines import Engine
from serving import Serving, eventually, serving

from orlop.agent.runtimes.docker_connection import connect_directly
from orlop.agent.runtimes.interface import Connection

DIRECT: Final = "engine alone"
LOCAL: Final = "agent in the server's process"
REMOTE: Final = "agent elsewhere, TLS"
LOCAL_NODE: Final = "local"
CHUNK_BYTES: Final = 256 * 1024
STREAM_HEAD_BYTES: Final = 8
LAST_CHUNK: Final = b"0\r\n\r\n"


class AgentProcess:
    """`orlop agent` with the docker runtime alone, at a server in this process."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.log = folder / "agent.log"
        self._data = folder / "agent"
        self._environment = {
            **os.environ,
            "ORLOP_AGENT__DOCKER": engine.url,
            "ORLOP_AGENT__RUNTIMES": '["docker"]',
            "ORLOP_AGENT__NAME": "remote",
        }
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self, one: Serving) -> str:
        """Its node's id, once that is there with its engine."""
        token = await one.token()
        self._launch("--data", str(self._data), "--join", str(one.url), "--token", token.text)

        def ready() -> str:
            nodes = one.server.host.nodes()
            return next((node.id for node in nodes if "docker" in node.info.runtimes), "")

        await eventually(ready, "the agent has joined with its engine")
        return ready()

    def _launch(self, *words: str) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "orlop", "agent", *words],
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()


class Ways:
    """A server with both kinds of agents of one engine. remote: the id of the node elsewhere."""

    def __init__(self, one: Serving, engine: Engine, agent: AgentProcess, remote: str) -> None:
        self.one = one
        self.engine = engine
        self.agent = agent
        self.remote = remote

    async def open(self, way: str) -> Connection:
        """Raises NotAvailable, ConnectionError."""
        if way == DIRECT:
            return await connect_directly(self.engine.url)
        return await self.one.server.host.open_engine(self.remote if way == REMOTE else LOCAL_NODE)


@asynccontextmanager
async def ways(folder: Path, engine: Engine, within_s: float = 120.0) -> AsyncIterator[Ways]:
    """A server, and a process of an agent, in this folder. within_s: for all that is done with them."""
    async with serving(folder, within_s=within_s) as one:
        one.server.remote.local_engines[LOCAL_NODE] = lambda: connect_directly(engine.url)
        agent = AgentProcess(folder, engine)
        try:
            yield Ways(one, engine, agent, await agent.start(one))
        finally:
            agent.close()


def request(method: str, path: str, body: Any = None, *headers: str) -> bytes:
    """An HTTP request by hand."""
    data = orjson.dumps(body) if body is not None else b""
    lines = [f"{method} {path} HTTP/1.1", "Host: docker", "Content-Type: application/json", *headers]
    lines.append(f"Content-Length: {len(data)}")
    return "\r\n".join([*lines, "", ""]).encode() + data


async def head(connection: Connection) -> tuple[bytes, bytes]:
    """An answer's head, and what came with it already."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = await connection.read()
        assert data, f"an answer, not its end: {received!r}"
        received += data
    first, _, rest = received.partition(b"\r\n\r\n")
    return first, rest


async def call(connection: Connection, method: str, path: str, body: Any = None) -> Any:
    """The document that the engine answers with; the connection can be used again."""
    await connection.write(request(method, path, body))
    first, rest = await head(connection)
    assert first.split(b" ", 2)[1][:1] == b"2", first
    lines = (line.partition(b":") for line in first.lower().split(b"\r\n")[1:])
    length = next((int(value) for name, _, value in lines if name == b"content-length"), 0)
    while len(rest) < length or (b"\r\ntransfer-encoding: chunked" in first.lower() and rest[-5:] != LAST_CHUNK):
        rest += await connection.read()
    if rest[-5:] == LAST_CHUNK:
        rest = b"".join(_chunks(rest))
    return orjson.loads(rest) if rest[:1] in (b"{", b"[") else rest


def _chunks(body: bytes) -> Iterator[bytes]:
    while (head_and_rest := body.partition(b"\r\n"))[0] != b"0":
        size = int(head_and_rest[0], 16)
        yield head_and_rest[2][:size]
        body = head_and_rest[2][size + 2 :]


async def execute(connection: Connection, container: str, *words: str) -> bytes:
    """Starts a command with its input and output on this connection. Returns what it said already."""
    body = {"Cmd": words, "AttachStdin": True, "AttachStdout": True, "AttachStderr": True}
    made = await call(connection, "POST", f"/containers/{container}/exec", body)
    start = {"Detach": False, "Tty": False}
    path = f"/exec/{made['Id']}/start"
    await connection.write(request("POST", path, start, "Connection: Upgrade", "Upgrade: tcp"))
    first, rest = await head(connection)
    assert b" 101 " in first, first
    return rest


async def give(connection: Connection, data: bytes) -> None:
    """All of it, and its end."""
    for start in range(0, len(data), CHUNK_BYTES):
        await connection.write(data[start : start + CHUNK_BYTES])
    await connection.write_eof()


async def read_all(connection: Connection, received: bytes = b"") -> bytes:
    """Up to the end."""
    pieces = [received]
    while data := await connection.read():
        pieces.append(data)
    return b"".join(pieces)


def without_heads(output: bytes) -> bytes:
    """What the command said, without the engine's own frames."""
    pieces = []
    at = 0
    while at < len(output):
        size = int.from_bytes(output[at + 4 : at + STREAM_HEAD_BYTES], "big")
        pieces.append(output[at + STREAM_HEAD_BYTES : at + STREAM_HEAD_BYTES + size])
        at += STREAM_HEAD_BYTES + size
    return b"".join(pieces)


async def piped(connection: Connection, container: str, data: bytes, *words: str) -> bytes:
    """What a command makes of its input."""
    received = await execute(connection, container, *words)
    giving = asyncio.create_task(give(connection, data))
    try:
        return without_heads(await read_all(connection, received))
    finally:
        giving.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await giving

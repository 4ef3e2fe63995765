"""Bytes to and from a command in a container: through the engine's own socket, and through agents to the same engine.

The server is this process, as a plugin's routes would find it; the agent elsewhere is a process of its own, joined over
TLS. The engine alone is read and written with sockets that block, in threads, which costs the least. All ways take
turns, so that they meet the same load, and each round compares them by itself.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import attrs
from engine_ways import CHUNK_BYTES, DIRECT, LOCAL, REMOTE, Ways, call, execute, give, piped, ways
from engines import Engine, Lane, missing

from orlop.agent.runtimes.docker_connection import DirectConnection, connect_directly

from .figures import Figure

__all__ = ["missing", "run"]

WITHIN_S: Final = 600.0
SETTLE_S: Final = 0.02
HEAD_BYTES: Final = 8
DATA: Final = "/tmp/data"
AT_LEAST: Final = {LOCAL: 0.75, REMOTE: 0.5}


@attrs.frozen
class Sizes:
    """megabytes: of 2^20 bytes. pings: of each kind."""

    megabytes: int = 50
    rounds: int = 25
    pings: int = 40


SMALL: Final = Sizes(megabytes=2, rounds=1, pings=3)


def run(sizes: Sizes = Sizes()) -> Iterator[Figure]:
    """All figures."""
    lane = Lane()
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield from asyncio.run(_measure(Path(folder), lane.engine("first"), sizes))
    finally:
        lane.close()


async def _measure(folder: Path, engine: Engine, sizes: Sizes) -> list[Figure]:
    engine.load_busybox()
    async with ways(folder, engine, WITHIN_S) as found:
        connection = await connect_directly(engine.url)
        body = {"Image": "busybox:latest", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}
        container = (await call(connection, "POST", "/containers/create", body))["Id"]
        await call(connection, "POST", f"/containers/{container}/start")
        make = f"head -c {sizes.megabytes * 2**20} /dev/urandom > {DATA}; echo -n made"
        assert b"made" in await piped(connection, container, b"", "sh", "-c", make)
        await connection.close()
        figures = [
            *await _throughput("out of", _out_s, found, container, sizes),
            *await _throughput("into", _in_s, found, container, sizes),
            *await _latency(found, sizes),
        ]
    engine.clear()
    return figures


async def _throughput(
    name: str, measure: Callable[..., Awaitable[float]], found: Ways, container: str, sizes: Sizes
) -> list[Figure]:
    rates: dict[str, list[float]] = {DIRECT: [], LOCAL: [], REMOTE: []}
    for attempt in range(sizes.rounds + 1):
        order = list(rates) if attempt % 2 else list(reversed(rates))
        for way in order:
            took_s = await measure(found, way, container, sizes.megabytes * 2**20)
            if attempt:  # the first warms up
                rates[way].append(sizes.megabytes * 2**20 / 1e6 / took_s)
    title = f"{sizes.megabytes} MiB {name} a command"
    figures = [Figure(f"{title}, {way}: median", statistics.median(rates[way]), "MB/s") for way in rates]
    for way, at_least in AT_LEAST.items():
        ratio = statistics.median(mine / own for mine, own in zip(rates[way], rates[DIRECT], strict=True))
        figures.append(Figure(f"{title}, {way}: over the engine alone", ratio, "x", at_least=at_least))
    return figures


async def _out_s(found: Ways, way: str, container: str, size: int) -> float:
    """From the first byte to the end."""
    connection = await found.open(way)
    try:
        received = len(await execute(connection, container, "cat", DATA))
        began = time.perf_counter()
        if isinstance(connection, DirectConnection) and way == DIRECT:
            received += await asyncio.to_thread(_count, connection._raw)
        else:
            while data := await connection.read():
                received += len(data)
        took_s = time.perf_counter() - began
    finally:
        await connection.close()
    assert received > size, "everything came"
    return took_s


async def _in_s(found: Ways, way: str, container: str, size: int) -> float:
    """From the first byte to the command's end, after it has read all."""
    connection = await found.open(way)
    data = bytes(size)
    try:
        received = await execute(connection, container, "wc", "-c")
        began = time.perf_counter()
        if isinstance(connection, DirectConnection) and way == DIRECT:
            await asyncio.to_thread(_give, connection._raw, data)
        else:
            await give(connection, data)
        while piece := await connection.read():
            received += piece
        took_s = time.perf_counter() - began
    finally:
        await connection.close()
    assert int(received[HEAD_BYTES:]) == size, "everything came"
    return took_s


def _give(raw: socket.socket, data: bytes) -> None:
    raw.setblocking(True)
    for start in range(0, len(data), CHUNK_BYTES):
        raw.sendall(data[start : start + CHUNK_BYTES])
    raw.shutdown(socket.SHUT_WR)
    raw.setblocking(False)


def _count(raw: socket.socket) -> int:
    raw.setblocking(True)
    received = 0
    while data := raw.recv(CHUNK_BYTES):
        received += len(data)
    raw.setblocking(False)
    return received


async def _latency(found: Ways, sizes: Sizes) -> list[Figure]:
    """Of a small request: on a connection made for it, and on one that is there."""
    first: dict[str, list[float]] = {DIRECT: [], LOCAL: [], REMOTE: []}
    pooled: dict[str, list[float]] = {way: [] for way in first}
    kept = {way: await found.open(way) for way in first}
    for _ in range(sizes.pings):
        for way in first:
            began = time.perf_counter()
            connection = await found.open(way)
            await call(connection, "GET", "/_ping")
            first[way].append(time.perf_counter() - began)
            await connection.close()
            await asyncio.sleep(SETTLE_S)  # for what is dialled in advance
            began = time.perf_counter()
            await call(kept[way], "GET", "/_ping")
            pooled[way].append(time.perf_counter() - began)
    for connection in kept.values():
        await connection.close()
    return [
        Figure(f"GET /_ping, {way}, {kind} connection: median", 1000 * statistics.median(taken[way]), "ms")
        for kind, taken in (("a new", first), ("the same", pooled))
        for way in first
    ]

"""Containers through the pool beside the same engines' own API: one at a time, many at once, and streams.

All ways take turns, so that they meet the same load, and each round compares them by itself. The clients are the same
on both sides: one connection that is kept, no library of Docker's.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import socket
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs
from engines import Engine, Lane, missing

from .docker_pool import STREAM_HEAD_BYTES, Client, Pool, command_socket, node_name, running_pool, share_image
from .figures import Figure

__all__ = ["missing", "run"]

WORKERS: Final = 8
CHUNK_BYTES: Final = 256 * 1024
DATA: Final = "/tmp/data"
BODY: Final = {
    "Image": "busybox:latest",
    "Cmd": ["sleep", "1000"],
    "HostConfig": {"NetworkMode": "none"},
}
AGENTS: Final = ("agent in the server's process", "agent elsewhere")
STREAM_AT_LEAST: Final = (0.75, 0.5)


@attrs.frozen
class Sizes:
    """cycles: of a container that is made, looked at, started and removed. megabytes: of 2^20 bytes."""

    cycles: int = 100
    many: int = 50
    many_rounds: int = 10  # as many with each of them first
    megabytes: int = 50
    stream_rounds: int = 25


SMALL: Final = Sizes(cycles=3, many=6, many_rounds=1, megabytes=2, stream_rounds=1)


def run(sizes: Sizes = Sizes()) -> Iterator[Figure]:
    """All figures of this module."""
    lane = Lane()
    try:
        engines = [lane.engine(name) for name in ("first", "second")]
        share_image(engines[0], engines[1:])
        with running_pool([engine.url for engine in engines]) as pool:
            for number, agent in enumerate(AGENTS):
                yield from cycle_figures(pool, engines[number], number, agent, sizes)
            yield from many_figures(pool, engines, sizes)
            for number, agent in enumerate(AGENTS):
                yield from stream_figures(pool, engines[number], number, agent, sizes)
            for engine in engines:
                engine.clear()
    finally:
        lane.close()


def placed(number: int) -> dict[str, Any]:
    """The container, on that node of the pool."""
    return BODY | {"Env": [f"constraint:node=={node_name(number)}"]}


@attrs.frozen
class Cycle:
    """One container's, in milliseconds."""

    create: float
    inspect: float
    start: float
    remove: float


def cycle(client: Client, body: Mapping[str, Any]) -> Cycle:
    marks = [time.perf_counter()]
    container = client.create(body)
    marks.append(time.perf_counter())
    client.call("GET", f"/containers/{container}/json")
    marks.append(time.perf_counter())
    client.call("POST", f"/containers/{container}/start")
    marks.append(time.perf_counter())
    client.remove(container)
    marks.append(time.perf_counter())
    return Cycle(*(1000 * (after - before) for before, after in itertools.pairwise(marks)))


def cycle_figures(pool: Pool, engine: Engine, number: int, agent: str, sizes: Sizes) -> Iterator[Figure]:
    """One container after another; who is first changes."""
    through: list[Cycle] = []
    alone: list[Cycle] = []
    with contextlib.closing(Client(pool.url)) as mine, contextlib.closing(Client(engine.url)) as own:
        cycle(own, BODY)
        cycle(mine, placed(number))
        for attempt in range(sizes.cycles):
            for is_mine in (True, False) if attempt % 2 else (False, True):
                if is_mine:
                    through.append(cycle(mine, placed(number)))
                else:
                    alone.append(cycle(own, BODY))
    median = statistics.median
    pairs = list(zip(through, alone, strict=True))
    for name, at_most in (("create", 6), ("inspect", 2), ("start", None), ("remove", None)):
        what = f"{name}, {agent}"
        yield Figure(f"{what}: engine alone, median", median(getattr(own, name) for own in alone), "ms")
        more = median(getattr(mine, name) - getattr(own, name) for mine, own in pairs)
        yield Figure(f"{what}: what the pool adds, median", more, "ms", at_most=at_most)
    ratio = median((mine.create + mine.start) / (own.create + own.start) for mine, own in pairs)
    yield Figure(f"create and start, {agent}: pool over engine, median of the pairs", ratio, "x", at_most=1.03)


def many_s(urls: list[str], body: Mapping[str, Any], count: int) -> float:
    """Seconds until so many containers run, with some workers, which take the addresses in turn."""
    local = threading.local()
    clients: list[Client] = []

    def one(number: int) -> None:
        if not hasattr(local, "clients"):
            local.clients = [Client(url) for url in urls]
            clients.extend(local.clients)
        client = local.clients[number % len(urls)]
        client.call("POST", f"/containers/{client.create(body)}/start")

    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as workers:
        list(workers.map(one, range(count)))
    took_s = time.perf_counter() - began
    for client in clients:
        client.close()
    return took_s


def many_figures(pool: Pool, engines: list[Engine], sizes: Sizes) -> Iterator[Figure]:
    through: list[float] = []
    alone: list[float] = []
    ways: list[tuple[list[float], list[str]]] = [(through, [pool.url]), (alone, [one.url for one in engines])]
    for attempt in range(sizes.many_rounds + 1):
        for taken, urls in ways if attempt % 2 else reversed(ways):
            took_s = many_s(urls, BODY, sizes.many)
            if attempt:  # the first warms up
                taken.append(took_s)
            remove_all(pool, engines)
    what = f"{sizes.many} containers on {len(engines)} engines, {WORKERS} workers"
    yield Figure(f"{what}: engines driven directly, median", sizes.many / statistics.median(alone), "containers/s")
    yield Figure(f"{what}: through the pool, median", sizes.many / statistics.median(through), "containers/s")
    ratio = statistics.median(own / mine for mine, own in zip(through, alone, strict=True))
    yield Figure(f"{what}: pool's rate over theirs, median of the rounds", ratio, "x", at_least=0.95)


def remove_all(pool: Pool, engines: list[Engine]) -> None:
    """Through the pool, which returns when it has let go of them; then what it does not know."""
    with contextlib.closing(Client(pool.url)) as client:
        for row in client.call("GET", "/containers/json?all=1"):
            client.remove(row["Id"])
    for engine in engines:
        engine.clear()


def stream_figures(pool: Pool, engine: Engine, number: int, agent: str, sizes: Sizes) -> Iterator[Figure]:
    size = sizes.megabytes * 2**20
    with contextlib.closing(Client(pool.url)) as client:
        container = client.create(placed(number))
        client.call("POST", f"/containers/{container}/start")
        said, rest = command_socket(pool.url, container, "sh", "-c", f"head -c {size} /dev/urandom > {DATA}; echo made")
        with said:
            assert b"made" in rest + _read_all(said)
        for name, measure in (("out of", out_s), ("into", in_s)):
            title = f"{sizes.megabytes} MiB {name} a command, {agent}"
            taken = {engine.url: list[float](), pool.url: list[float]()}
            for attempt in range(sizes.stream_rounds + 1):
                for url in taken if attempt % 2 else reversed(taken):
                    took_s = measure(url, container, size)
                    if attempt:  # the first warms up
                        taken[url].append(took_s)
            yield from _compared(title, size, taken[engine.url], taken[pool.url], STREAM_AT_LEAST[number])
        client.remove(container)


def _compared(title: str, size: int, alone: list[float], through: list[float], at_least: float) -> Iterator[Figure]:
    yield Figure(f"{title}: engine alone, median", size / 1e6 / statistics.median(alone), "MB/s")
    yield Figure(f"{title}: through the pool, median", size / 1e6 / statistics.median(through), "MB/s")
    ratio = statistics.median(own / mine for own, mine in zip(alone, through, strict=True))
    yield Figure(f"{title}: pool over engine, median of the rounds", ratio, "x", at_least=at_least)


def out_s(url: str, container: str, size: int) -> float:
    """From the first byte to the end."""
    connection, rest = command_socket(url, container, "cat", DATA)
    with connection:
        received = len(rest)
        began = time.perf_counter()
        while data := connection.recv(CHUNK_BYTES):
            received += len(data)
        took_s = time.perf_counter() - began
    assert received > size, "everything came"
    return took_s


def in_s(url: str, container: str, size: int) -> float:
    """From the first byte to the command's end, after it has read all."""
    connection, received = command_socket(url, container, "wc", "-c")
    data = bytes(size)
    with connection:
        began = time.perf_counter()
        for start in range(0, size, CHUNK_BYTES):
            connection.sendall(data[start : start + CHUNK_BYTES])
        connection.shutdown(socket.SHUT_WR)
        received += _read_all(connection)
        took_s = time.perf_counter() - began
    assert int(received[STREAM_HEAD_BYTES:]) == size, "everything came"
    return took_s


def _read_all(connection: socket.socket) -> bytes:
    received = b""
    while data := connection.recv(CHUNK_BYTES):
        received += data
    return received

"""Connections that Docker's clients take over, on their whole way: by each kind of listener, through real servers, with
and without authentication, and through the agent in the server's process or one elsewhere, to a real engine."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import attrs
import pytest
from certificates import Certificates
from content_checks import CONTENT_CHECKS, header
from engines import Engine, Lane
from running import processes_naming, sockets
from stream_checks import (
    CHECKS,
    CLIENTS,
    FULL_AFTER_S,
    IDLE,
    OPENED_AT_ONCE,
    PIECE_BYTES,
    RESET,
    Entrance,
    Session,
    Way,
    are_not_mixed_up,
    fifty_megabytes_at_once,
    sessions,
)
from swarm_pool import RunningPool, running_pool
from twin_engines import twins
from waiting import wait_until

pytestmark = pytest.mark.docker

WAYS: Final = ("tcp", "unix", "tls")
#: Where an engine is, seen from the server.
PLACES: Final = ("beside", "elsewhere")
SESSIONS: Final = 204
#: Connections that are kept for later requests come and go.
SOME: Final = 8
UNCHANGED_S: Final = 1.0
NOTICED_WITHIN_S: Final = 10.0
MUCH_BYTES: Final = "500000000"
#: An archive with one file, which has no end.
ENDLESS_BYTES: Final = 2**32
BEGINNING: Final = header("large", ENDLESS_BYTES) + bytes(PIECE_BYTES)
#: More than all buffers on the way hold.
BUFFERED_BYTES_MAX: Final = 100_000_000
MUCH: Final = f"exec head -c {MUCH_BYTES} /dev/zero"
NOTHING_TAKEN: Final = "stty raw; exec sleep 1000"


class House:
    """Two pools of the same two engines, and in each a container on each engine.

    In the first neither Docker's clients nor the agent elsewhere use TLS; in the second the agent does, and clients
    come with certificates, or by a Unix socket.
    """

    def __init__(self, engines: list[Engine], pools: Sequence[RunningPool]) -> None:
        self.engines = dict(zip(PLACES, engines, strict=True))
        self.pools = pools
        self.entrances: dict[str, Entrance] = {}
        self._containers: dict[tuple[str, str], str] = {}
        for number, pool in enumerate(pools):
            self.entrances |= pool.entrances
            for place, engine in self.engines.items():
                name = f"{place}-{number}"
                pool.docker("run", "-d", "--name", name, *on(engine), "busybox", *IDLE)
                self._containers |= {(way, place): name for way in pool.entrances}

    def way(self, way: str, place: str) -> Way:
        return Way(CLIENTS[-1], self.entrances[way], self._containers[way, place], on(self.engines[place]))

    def all(self, *places: str) -> list[tuple[Entrance, str]]:
        """An entrance and a container for each of the ways to each of these places."""
        return [(self.entrances[way], self._containers[way, place]) for way in WAYS for place in places]

    def restore(self) -> None:
        """Everything runs again."""
        for engine in self.engines.values():
            if not engine.running:
                engine.start()
        for number, pool in enumerate(self.pools):
            for agent, engine in zip(pool.agents, pool.engines[1:], strict=True):
                if agent.poll() is not None:
                    pool.start_agent(engine)
            wait_until(pool.complete, "the pool is whole")
            pool.docker("start", *(f"{place}-{number}" for place in PLACES))

    def _pids(self) -> dict[str, int]:
        """Of the servers and the agents."""
        pids: dict[str, int] = {}
        for number, pool in enumerate(self.pools):
            assert pool.server.process is not None
            pids[f"server {number}"] = pool.server.process.pid
            pids |= {f"agent {number}": agent.pid for agent in pool.agents}
        return pids

    def sockets(self) -> dict[str, int]:
        """How many each of them has."""
        return {name: sockets(pid) for name, pid in self._pids().items()}

    def memory(self) -> dict[str, int]:
        """How many bytes each of them takes, in steps larger than what an idle one's changes by."""
        return {name: resident(pid) // 2**23 * 2**23 for name, pid in self._pids().items()}


def resident(pid: int) -> int:
    """Bytes of memory that the process has."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def settled(ask: Callable[[], dict[str, int]]) -> dict[str, int]:
    """What is answered when it has been the same for a while."""
    seen, since = ask(), time.monotonic()

    def unchanged() -> bool:
        nonlocal seen, since
        if (now := ask()) != seen:
            seen, since = now, time.monotonic()
        return time.monotonic() - since >= UNCHANGED_S

    wait_until(unchanged, lambda: f"nothing changes; the last was {seen}")
    return seen


def on(engine: Engine) -> tuple[str, str]:
    return "-e", f"constraint:node=={engine.name}"


@pytest.fixture(scope="module")
def house(engines: Lane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    members = twins(engines, "nu", "xi")
    certificates = Certificates(tmp_path_factory.mktemp("tls"))
    with (
        running_pool(members, tmp_path_factory.mktemp("open")) as plain,
        running_pool(members, tmp_path_factory.mktemp("closed"), certificates) as secure,
    ):
        yield House(members, (plain, secure))


@pytest.fixture(params=itertools.product(WAYS, PLACES), ids="-".join)
def way(request: pytest.FixtureRequest, house: House) -> Way:
    return house.way(*request.param)


@contextlib.contextmanager
def nothing_left(house: House) -> Iterator[None]:
    """After what is done here, neither servers nor agents have more connections than before, be they clients' or to
    engines. Those of what was done earlier have been closed when no more come or go."""
    before = settled(house.sockets)
    yield

    def more() -> dict[str, int]:
        return {name: count for name, count in house.sockets().items() if count >= before[name] + SOME}

    wait_until(lambda: not more(), lambda: f"connections are closed; before {before}, now {more()}")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_stream_is_what_the_engine_makes_of_it(check: Callable[[Way], None], way: Way) -> None:
    check(way)


@pytest.mark.parametrize("check", CONTENT_CHECKS, ids=lambda check: check.__name__)
def test_what_is_long_is_what_the_engine_makes_of_it(
    check: Callable[[Way], None], way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    check(way)


def test_fifty_megabytes_both_ways_at_once(way: Way) -> None:
    fifty_megabytes_at_once(way)


def test_two_hundred_at_once_are_not_mixed_up(house: House) -> None:
    cells = house.all(*PLACES)
    for cell in cells:  # connections to engines are kept for as many clients as have worked side by side
        with sessions([cell] * OPENED_AT_ONCE * 2):
            pass
    with nothing_left(house), sessions(cells * (SESSIONS // len(cells))) as opened:
        are_not_mixed_up(opened)


def test_clients_that_do_not_read_and_go_leave_nothing(house: House) -> None:
    with nothing_left(house), sessions(house.all(*PLACES) * 4, MUCH):
        pass
    end_those_of_much()


def test_clients_that_vanish_while_nothing_is_taken_leave_nothing(house: House) -> None:
    with nothing_left(house), sessions(house.all(*PLACES) * 4, NOTHING_TAKEN) as opened:
        with ThreadPoolExecutor(len(opened)) as workers:
            list(workers.map(Session.fill, opened))
        for session in opened:
            session.vanish()


def test_clients_that_want_no_more_of_what_goes_on_leave_nothing(house: House) -> None:
    """Half of them break off as one that is killed does."""
    with nothing_left(house), contextlib.ExitStack() as stack:
        for entrance, container in house.all(*PLACES) * 4:
            for number, path in enumerate((f"containers/{container}/stats", "events?since=0")):
                connection = entrance.connect()
                stack.callback(connection.close)
                if number:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                connection.sendall(f"GET /v1.41/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                assert connection.recv(1_000).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("place", PLACES)
def test_a_body_waits_for_an_engine_that_takes_nothing(house: House, place: str) -> None:
    """Each goes to a container of its own, which an engine holds meanwhile."""
    engine = house.engines[place]
    ways = [house.way(way, place) for way in WAYS]
    takers = [way.call("run", "-d", *way.place, "busybox", *IDLE)[1].decode().strip() for way in ways]
    pids = [int(way.call("inspect", "-f", "{{.State.Pid}}", taker)[1]) for way, taker in zip(ways, takers, strict=True)]
    with nothing_left(house), contextlib.ExitStack() as stack:
        connections = [way.entrance.connect() for way in ways]
        for connection, taker, pid in zip(connections, takers, pids, strict=True):
            stack.callback(connection.close)
            connection.sendall(
                f"PUT /v1.41/containers/{taker}/archive?path=/ HTTP/1.1\r\nHost: localhost\r\n"
                f"Content-Type: application/x-tar\r\nContent-Length: {ENDLESS_BYTES}\r\n\r\n".encode()
                + BEGINNING
            )
            wait_until(Path(f"/proc/{pid}/root/large").exists, "the engine takes what comes")
        engine.hang()
        try:
            sent = [given(connection) for connection in connections]
        finally:
            engine.go_on()
    assert max(sent) < BUFFERED_BYTES_MAX
    ways[0].call("rm", "-f", *takers)


def given(connection: socket.socket) -> int:
    """How many bytes there is room for, or the first number above what there should be."""
    connection.settimeout(FULL_AFTER_S)
    count = 0
    with contextlib.suppress(TimeoutError):
        while count < BUFFERED_BYTES_MAX:
            count += connection.send(bytes(PIECE_BYTES))
    return count


def test_answers_wait_for_clients_that_take_nothing(house: House) -> None:
    """Those of commands, and archives: an engine holds a container while it packs one."""
    ways = [house.way(way, place) for way in ("tcp", "tls") for place in PLACES]
    for way in ways:
        way.execute("truncate", "-s", MUCH_BYTES, "/much")
    before = house.memory()
    with nothing_left(house), contextlib.ExitStack() as stack:
        stack.enter_context(sessions(house.all(*PLACES), MUCH))
        for way in ways:
            connection = way.entrance.connect()
            stack.callback(connection.close)
            path = f"/v1.41/containers/{way.container}/archive?path=/much"
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert connection.recv(PIECE_BYTES).startswith(b"HTTP/1.1 200 ")
        after = settled(house.memory)
    more = {name: count - before[name] for name, count in after.items()}
    assert max(more.values()) < BUFFERED_BYTES_MAX, more
    end_those_of_much()
    for way in ways:
        way.execute("rm", "/much")


def end_those_of_much() -> None:
    """Engines let them go on, and take what they say at full speed: gigabytes, while the next test waits."""
    for pid in processes_naming(MUCH_BYTES):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@attrs.frozen
class Broken:
    """What was seen of connections. ends: how they ended, by their ways. took_s: until the last one had ended."""

    ends: dict[str, str]
    took_s: float


def breaking(house: House, place: str, kill: Callable[[], None]) -> Broken:
    """Has idle connections to this place while it breaks; those to the other one go on."""
    other = PLACES[1 - PLACES.index(place)]
    with sessions(house.all(place)) as ending, sessions(house.all(other)) as staying:
        are_not_mixed_up(ending)
        began = time.monotonic()
        kill()
        ends = {way: session.end() for way, session in zip(WAYS, ending, strict=True)}
        took_s = time.monotonic() - began
        are_not_mixed_up(staying)
    return Broken(ends, took_s)


def is_a_break(broken: Broken) -> None:
    """TLS has a word for an end in good order, which must not be said. Without it the two look alike, with one engine,
    too."""
    assert broken.ends == {"tcp": "end", "unix": "end", "tls": "SSLEOFError"}
    assert broken.took_s < NOTICED_WITHIN_S


@pytest.mark.parametrize("place", PLACES)
def test_an_engine_that_is_killed_breaks_its_clients_connections(house: House, place: str) -> None:
    with nothing_left(house):
        try:
            is_a_break(breaking(house, place, house.engines[place].kill))
        finally:
            house.restore()
        with sessions(house.all(place)) as again:
            are_not_mixed_up(again)


def test_an_agent_that_is_killed_breaks_its_clients_connections(house: House) -> None:
    def kill() -> None:
        for pool in house.pools:
            pool.kill_agent(house.engines["elsewhere"])

    with nothing_left(house):
        try:
            is_a_break(breaking(house, "elsewhere", kill))
        finally:
            house.restore()
        with sessions(house.all("elsewhere")) as again:
            are_not_mixed_up(again)

"""Connections that Docker's clients take over, on their whole way: by each kind of listener, through real servers, with
and without authentication, and through the agent in the server's process or one elsewhere, to a real engine."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import attrs
import pytest
from certificates import Certificates
from engines import Engine, Lane
from running import processes_naming, sockets
from stream_checks import (
    CHECKS,
    CLIENTS,
    IDLE,
    OPENED_AT_ONCE,
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

    def sockets(self) -> dict[str, int]:
        """How many the servers and the agents have."""
        pids: dict[str, int] = {}
        for number, pool in enumerate(self.pools):
            assert pool.server.process is not None
            pids[f"server {number}"] = pool.server.process.pid
            pids |= {f"agent {number}": agent.pid for agent in pool.agents}
        return {name: sockets(pid) for name, pid in pids.items()}

    def settled_sockets(self) -> dict[str, int]:
        """How many they have when none has come or gone for a while: those of before have been closed."""
        seen, since = self.sockets(), time.monotonic()

        def unchanged() -> bool:
            nonlocal seen, since
            if (now := self.sockets()) != seen:
                seen, since = now, time.monotonic()
            return time.monotonic() - since >= UNCHANGED_S

        wait_until(unchanged, lambda: f"connections neither come nor go; the last were {seen}")
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
    engines."""
    before = house.settled_sockets()
    yield

    def more() -> dict[str, int]:
        return {name: count for name, count in house.sockets().items() if count >= before[name] + SOME}

    wait_until(lambda: not more(), lambda: f"connections are closed; before {before}, now {more()}")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_stream_is_what_the_engine_makes_of_it(check: Callable[[Way], None], way: Way) -> None:
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
    # Engines let them go on, and take what they say at full speed: gigabytes, while the next test waits for its turn.
    for pid in processes_naming(MUCH_BYTES):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_clients_that_vanish_while_nothing_is_taken_leave_nothing(house: House) -> None:
    with nothing_left(house), sessions(house.all(*PLACES) * 4, NOTHING_TAKEN) as opened:
        with ThreadPoolExecutor(len(opened)) as workers:
            list(workers.map(Session.fill, opened))
        for session in opened:
            session.vanish()


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

"""Connections that clients take over, through the pool's API to a real engine, over each way in and by each client."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator
from typing import Final

import docker
import pytest
from certificates import Certificates
from direct_engines import Host, Served, served
from engines import Engine
from stream_checks import (
    CHECKS,
    CLIENTS,
    IDLE,
    Entrance,
    Session,
    Way,
    are_not_mixed_up,
    fifty_megabytes_each_way,
    sessions,
)
from waiting import wait_until

SESSIONS: Final = 200
WAYS: Final = ("tcp", "unix", "tls")

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def pool(engine: Engine, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    host = Host(engine.name, engine.address, engine.url.removeprefix("unix://"))
    with served([host], tmp_path_factory.mktemp("pool"), certificates=certificates) as api:
        try:
            yield api
        finally:
            engine.clear()


@pytest.fixture(scope="module")
def container(engine: Engine, pool: Served) -> Iterator[str]:
    """One that runs for the whole module."""
    with contextlib.closing(docker.APIClient(base_url=pool.url, version="1.41")) as client:
        made: str = client.create_container("busybox", IDLE, name="streams")["Id"]
        client.start(made)
        yield made
        client.remove_container(made, force=True)


def entrance(pool: Served, certificates: Certificates, way: str) -> Entrance:
    if way == "tls":
        return Entrance(pool.tls_url, certificates)
    return Entrance(pool.url if way == "tcp" else f"unix://{pool.socket}")


@pytest.fixture(params=WAYS)
def coming_in(request: pytest.FixtureRequest, pool: Served, certificates: Certificates) -> Entrance:
    return entrance(pool, certificates, request.param)


def no_connections_left(pool: Served) -> None:
    pool.call(pool.pool.forget_idle())
    wait_until(lambda: pool.pool.open_connections == 0, "every connection to the engine is closed")


@pytest.mark.parametrize("program", CLIENTS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_stream_is_what_the_engine_makes_of_it(
    check: Callable[[Way], None], coming_in: Entrance, program: str, container: str
) -> None:
    check(Way(program, coming_in, container))


def test_fifty_megabytes_each_way(coming_in: Entrance, container: str) -> None:
    fifty_megabytes_each_way(Way(CLIENTS[-1], coming_in, container))


@pytest.fixture
def many_files() -> Iterator[None]:
    """Both ends of all connections are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_two_hundred_at_once_are_not_mixed_up(
    pool: Served, coming_in: Entrance, container: str, many_files: None
) -> None:
    with sessions([(coming_in, container)] * SESSIONS) as opened:
        are_not_mixed_up(opened)
        assert pool.pool.open_connections >= SESSIONS
    no_connections_left(pool)


def test_a_client_that_goes_away_ends_its_connection_to_the_engine(
    pool: Served, coming_in: Entrance, container: str
) -> None:
    with sessions([(coming_in, container)] * 2) as (leaving, staying):
        assert leaving.says(b"here") == b"here"
        before = pool.pool.open_connections
        leaving.close()
        wait_until(lambda: pool.pool.open_connections < before, "the connection to the engine is closed")
        assert staying.says(b"still") == b"still"


def test_an_engine_that_goes_away_ends_its_clients_connections(
    engine: Engine, pool: Served, coming_in: Entrance, container: str
) -> None:
    with contextlib.closing(Session(coming_in, container)) as session:
        assert session.says(b"here") == b"here"
        engine.kill()
        try:
            session.end()
            session.close()
            no_connections_left(pool)
        finally:
            engine.start()
            with contextlib.closing(docker.APIClient(base_url=pool.url, version="1.41")) as client:
                client.start(container)

"""Requests that are meant to be understood in two ways, or to take too much: refused, and others do not notice."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Final

import docker
import pytest
from direct_engines import Host, Served, served
from engines import Engine

WITHIN_S: Final = 30.0

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def pool(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    host = Host(engine.name, engine.address, engine.url.removeprefix("unix://"))
    with served([host], tmp_path_factory.mktemp("pool")) as api:
        yield api


@pytest.fixture(scope="module", autouse=True)
def container(engine: Engine, pool: Served) -> Iterator[str]:
    with contextlib.closing(engine.client()) as client:
        yield client.create_container("busybox", "true", name="there")["Id"]
        engine.clear()


@pytest.fixture(autouse=True)
def others(pool: Served) -> Iterator[None]:
    """A client whose connection was there before, and who is served afterwards."""
    with contextlib.closing(docker.APIClient(base_url=pool.url, version="1.41")) as client:
        assert client.ping()
        yield
        assert client.ping()


def answers(pool: Served, sent: bytes) -> bytes:
    """All that comes until the connection is closed."""
    with socket.create_connection(("127.0.0.1", pool.port), timeout=WITHIN_S) as asking:
        asking.sendall(sent)
        got = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := asking.recv(65_536):
                got += piece
        return got


def get(path: bytes) -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"


HIDDEN: Final = b"GET /v1.41/info HTTP/1.1\r\nHost: docker\r\n\r\n"


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n" % len(HIDDEN),
        b"Content-Length: 0\r\nContent-Length: %d\r\n" % len(HIDDEN),
        b"Content-Length: %d\r\nContent-Length: 0\r\n" % len(HIDDEN),
        b"Content-Length: +5\r\n",
        b"Content-Length: 1_0\r\n",
        b"Content-Length : 5\r\n",
        b"Transfer-Encoding: identity, chunked\r\nContent-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b" Content-Length: 5\r\n",
        b"X: a\nContent-Length: 5\r\n",
        b"X-A: a\0b\r\n",
    ],
)
def test_a_request_of_two_lengths_is_refused_and_nothing_hides_behind_it(pool: Served, framing: bytes) -> None:
    head = b"POST /v1.41/containers/there/stop HTTP/1.1\r\nHost: docker\r\n" + framing + b"\r\n"
    got = answers(pool, head + HIDDEN)
    assert got.split(b" ", 2)[1] == b"400", got[:200]
    assert got.count(b"Content-Type: ") == 1
    assert b"DockerRootDir" not in got


@pytest.mark.parametrize(
    "path",
    [
        b"/v1.41/../v1.41/containers/json",
        b"/v1.41/%2e%2e/info",
        b"/%2e%2e/v1.41/info",
        b"//v1.41/info",
        b"/v1.41//info",
        b"/v1.41/./info",
        b"/v1.41/containers/../info",
        b"/v1.41/containers/there/../../info",
        b"/v1.41/containers/there/../../images/json",
        b"/v1.41/containers/there%2f..%2f..%2fimages/json",
        b"/v1.41/containers/%2e%2e/json",
        b"/v1.41/containers/..%2f..%2fimages/json",
        b"/v1.41/containers/there%3fall=1/json",
        b"/v1.41/containers/there%0d%0aX-A:%20b/json",
        b"/v1.41/containers/there%00/json",
        b"/v1.41/exec/..%2f..%2finfo/json",
    ],
)
def test_a_path_with_tricks_leads_nowhere(pool: Served, path: bytes) -> None:
    status = int(answers(pool, get(path)).split(b" ", 2)[1])
    assert status in (301, 400, 404), status


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1.41/info HTTP/1.1\r\nHost: docker\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /v1.41/info?" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: docker\r\n\r\n",
        b"GET /v1.41/info HTTP/1.1\r\nHost: docker\r\n" + b"X-Many: a\r\n" * 100_000 + b"\r\n",
    ],
    ids=["value", "target", "many"],
)
def test_a_head_without_measure_is_refused(pool: Served, head: bytes) -> None:
    got = answers(pool, head)
    assert got == b"" or got.split(b" ", 2)[1] in (b"400", b"431"), got[:200]
    assert b"DockerRootDir" not in got

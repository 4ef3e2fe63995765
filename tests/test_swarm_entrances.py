"""Who is not let in to the Docker API of a real server, or is in the way: refused or bounded, while others work."""

from __future__ import annotations

import contextlib
import http.client
import re
import resource
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from certificates import Certificates
from engines import Engine
from ports import free_port
from running import RunningOrlop, sockets
from stream_checks import Entrance
from swarm_pool import RunningPool, running_pool
from test_hostile_clients import HARDLY_HTTP, status_of
from waiting import wait_until

pytestmark = [pytest.mark.real, pytest.mark.docker]

WITHIN_S: Final = 60.0
#: So few files that the flood would take all of them, were connections not bounded.
FILES: Final = 768
HALF_A_HEAD: Final = b"POST /v1.41/containers/create HTTP/1.1\r\nHost: localhost\r\nContent-Le"
HALF_A_BODY: Final = b"POST /v1.41/containers/create HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secure(
    engine: Engine, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningPool]:
    with running_pool([engine], tmp_path_factory.mktemp("secure"), certificates) as running:
        yield running
        running.clear()


@pytest.fixture(scope="module")
def plain(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    with running_pool([engine], tmp_path_factory.mktemp("plain")) as running:
        yield running
        running.clear()


def ask(*options: str) -> tuple[int, str]:
    """`docker ps` with these options."""
    done = subprocess.run(
        ["docker", *options, "ps", "-a"], capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_dockers_client_is_let_in_with_a_certificate_alone(
    secure: RunningPool, certificates: Certificates, tmp_path: Path
) -> None:
    entrance = secure.entrances["tls"]
    strange = Certificates(tmp_path / "strange")
    server = ("--tlsverify", f"--tlscacert={certificates.authority}", "-H", entrance.url)
    wrong = (f"--tlscert={strange.cert}", f"--tlskey={strange.key}")
    for options in (server, (*wrong, *server), ("-H", entrance.url)):
        code, said = ask(*options)
        assert code != 0, said
        assert "CONTAINER ID" not in said
        assert re.search("(?i)tls", said), said
    assert ask(*entrance.options())[0] == 0


def test_the_docker_api_is_not_opened_to_other_machines_without_certificates(tmp_path: Path) -> None:
    port = free_port()
    orlop = RunningOrlop(tmp_path, ORLOP_PLUGINS__SWARM__LISTEN=f'["0.0.0.0:{port}"]')
    try:
        orlop.start()
        assert f"0.0.0.0:{port} can be reached from other machines: set tls_cert" in orlop.log.read_text()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), WITHIN_S).close()
    finally:
        orlop.close()


def exchange(connection: socket.socket, sent: bytes) -> bytes:
    """What comes back to these bytes until the server closes."""
    received = bytearray()
    with connection, contextlib.suppress(ConnectionError, ssl.SSLError):
        connection.sendall(sent)
        while part := connection.recv(65_536):
            received += part
    return bytes(received)


@pytest.mark.parametrize("way", ["tcp", "tls", "unix"])
def test_what_is_hardly_http_is_refused(way: str, secure: RunningPool, plain: RunningPool) -> None:
    entrance = (plain if way == "tcp" else secure).entrances[way]
    before = everything(secure)
    for name, sent in HARDLY_HTTP.items():
        if answer := exchange(entrance.connect(), sent):
            assert 400 <= status_of(answer) < 500, (name, answer[:500])
    assert everything(secure) == before
    assert "Traceback" not in (plain if way == "tcp" else secure).server.log.read_text()


def everything(pool: RunningPool) -> str:
    return (
        pool.docker("ps", "-aq", "--no-trunc") + pool.docker("network", "ls", "-q") + pool.docker("volume", "ls", "-q")
    )


def bare(entrance: Entrance) -> socket.socket:
    """A connection that never begins with TLS."""
    return Entrance(entrance.url).connect()


@pytest.mark.parametrize(
    ("way", "connect"),
    [("tcp", Entrance.connect), ("tls", Entrance.connect), ("tls", bare)],
    ids=["tcp", "tls", "bare"],
)
def test_slow_clients_leave_room_for_others(
    way: str, connect: Callable[[Entrance], socket.socket], secure: RunningPool, plain: RunningPool
) -> None:
    """They come with half a request and say no more: whoever came before is served meanwhile, and anybody after."""
    pool = plain if way == "tcp" else secure
    entrance = pool.entrances[way]
    assert pool.server.process is not None
    pid = pool.server.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    held: list[socket.socket] = []
    with contextlib.closing(entrance.connect()) as patient:
        assert ping(patient)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (FILES, before[1]))
        try:
            for number in range(FILES):
                with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
                    held.append(connect(entrance))
                    held[-1].sendall(HALF_A_HEAD if number % 2 else HALF_A_BODY)
            wait_until(lambda: sockets(pid) < FILES // 2, lambda: f"most are refused; there are {sockets(pid)}")
            assert served(patient, f"slow-{way}-{connect.__name__}")
        finally:
            for one in held:
                one.close()
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    wait_until(lambda: ask(*entrance.options())[0] == 0, "anybody is served again")
    assert pool.run(f"after-{way}-{connect.__name__}")
    assert "leads no more" not in pool.server.log.read_text()


def ping(connection: socket.socket) -> bool:
    return said_to(connection, b"GET", b"/_ping").startswith(b"HTTP/1.1 200 ")


def served(connection: socket.socket, name: str) -> bool:
    """Is a command run in a container of this name? It takes further connections."""
    body = b'{"Image": "busybox", "Cmd": ["sleep", "1000"]}'
    made = said_to(connection, b"POST", f"/containers/create?name={name}".encode(), body)
    started = said_to(connection, b"POST", f"/containers/{name}/start".encode())
    top = said_to(connection, b"GET", f"/containers/{name}/top".encode())
    assert b"sleep 1000" in top, (made, started, top)
    return True


def said_to(connection: socket.socket, method: bytes, path: bytes, body: bytes = b"") -> bytes:
    """The head and the body of the answer."""
    head = b"%b /v1.41%b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    connection.sendall(head % (method, path, len(body)) + body)
    answer = http.client.HTTPResponse(connection, method=method.decode())
    answer.begin()
    return b"HTTP/1.1 %d " % answer.status + answer.read()

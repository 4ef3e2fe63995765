"""Connections that clients take over, through the pool's API to a real engine, over each way in and by each client.

Docker's own command line is the judge: bytes in are bytes out, and exit codes are the commands'.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import resource
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import attrs
import docker
import pytest
from certificates import Certificates
from direct_engines import Host, Served, served
from engines import Engine
from waiting import wait_until

WITHIN_S: Final = 120.0
SESSIONS: Final = 200
LARGE: Final = os.urandom(2**20) * 50
#: Docker's command line in the versions that are installed; the API of the older one is spoken as well.
CLIENTS: Final = sorted(
    {os.path.realpath(path) for path in ("/usr/bin/docker", "/usr/local/bin/docker", shutil.which("docker")) if path}
)
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
        made: str = client.create_container("busybox", "sleep 1000", name="streams")["Id"]
        client.start(made)
        yield made
        client.remove_container(made, force=True)


@attrs.frozen
class Way:
    """A client and how it comes in."""

    program: str
    words: tuple[str, ...]

    def command(self, *words: str) -> list[str]:
        return [self.program, *self.words, *words]

    def run(self, *words: str, sent: bytes = b"") -> tuple[int, bytes]:
        done = subprocess.run(self.command(*words), input=sent, capture_output=True, timeout=WITHIN_S, check=False)
        assert done.returncode < 125, done.stderr
        return done.returncode, done.stdout


def way_in(pool: Served, certificates: Certificates, way: str, program: str) -> Way:
    if way == "tls":
        files = [f"--tls{kind}={path}" for kind, path in certificates.named.items()]
        return Way(program, ("--tlsverify", *files, "-H", pool.tls_url))
    return Way(program, ("-H", pool.url if way == "tcp" else f"unix://{pool.socket}"))


@pytest.fixture(params=[(way, client) for way in WAYS for client in CLIENTS], ids=lambda one: "-".join(one))
def way(request: pytest.FixtureRequest, pool: Served, certificates: Certificates) -> Way:
    return way_in(pool, certificates, *request.param)


@pytest.fixture(params=WAYS)
def newest(request: pytest.FixtureRequest, pool: Served, certificates: Certificates) -> Way:
    return way_in(pool, certificates, request.param, CLIENTS[-1])


def no_connections_left(pool: Served) -> None:
    pool.call(pool.pool.forget_idle())
    wait_until(lambda: pool.pool.open_connections == 0, "every connection to the engine is closed")


def test_run_shows_what_is_said_and_how_it_ended(way: Way) -> None:
    assert way.run("run", "--rm", "busybox", "sh", "-c", "echo out; exit 7") == (7, b"out\n")


def test_run_with_input_gives_back_what_it_got(way: Way) -> None:
    data = os.urandom(100_000)
    assert way.run("run", "--rm", "-i", "busybox", "cat", sent=data) == (0, data)


def test_what_is_said_after_the_end_of_the_input_arrives(way: Way, container: str) -> None:
    script = "cat >/dev/null; sleep 1; echo late; exit 3"
    assert way.run("exec", "-i", container, "sh", "-c", script, sent=b"x\n") == (3, b"late\n")


def test_three_megabytes_there_and_back(way: Way, container: str) -> None:
    data = os.urandom(3 * 2**20)
    assert way.run("exec", "-i", container, "cat", sent=data) == (0, data)


def test_attach_takes_part_in_what_runs(way: Way, pool: Served) -> None:
    made = way.run("create", "-i", "busybox", "sh", "-c", "read line; echo got $line; exit 5")[1].decode().strip()
    assert way.run("start", "-a", "-i", made, sent=b"this\n") == (5, b"got this\n")
    way.run("rm", made)


def test_a_terminal_is_one(way: Way, container: str) -> None:
    ours, theirs = pty.openpty()
    try:
        command = way.command("exec", "-it", container, "sh", "-c", "test -t 0 && read x && echo got $x && exit 4")
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as running:
            os.close(theirs)
            os.write(ours, b"word\n")
            seen = b""
            with contextlib.suppress(OSError):  # the end of a terminal is an error
                while piece := os.read(ours, 4096):
                    seen += piece
            assert running.wait(WITHIN_S) == 4
    finally:
        os.close(ours)
    assert b"got word\r\n" in seen


def test_fifty_megabytes_each_way(newest: Way, container: str) -> None:
    digest = hashlib.sha256(LARGE).hexdigest().encode()
    assert newest.run("exec", "-i", container, "sha256sum", sent=LARGE) == (0, digest + b"  -\n")
    newest.run("exec", "-i", container, "sh", "-c", "cat >/tmp/large", sent=LARGE)
    code, out = newest.run("exec", container, "cat", "/tmp/large")
    assert (code, hashlib.sha256(out).hexdigest().encode()) == (0, digest)


class Session:
    """`exec cat`, by hand: the client's end of a connection that was taken over."""

    def __init__(self, pool: Served, certificates: Certificates, way: str, identifier: str) -> None:
        path = str(pool.socket)
        if way == "unix":
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(WITHIN_S)
            self.socket.connect(path)
        else:
            port = int((pool.tls_url if way == "tls" else pool.url).rpartition(":")[2])
            self.socket = socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S)
        if way == "tls":
            self.socket = certificates.client(certificate=True).wrap_socket(self.socket, server_hostname="localhost")
        body = json.dumps({"Detach": False, "Tty": True}).encode()
        self.socket.sendall(
            f"POST /v1.41/exec/{identifier}/start HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n"
            f"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        self._file = self.socket.makefile("rb")
        head = list(iter(self._file.readline, b"\r\n"))
        assert head, "there is an answer"
        assert b" 101 " in head[0], head

    def echoes(self, word: bytes) -> bool:
        self.socket.sendall(word + b"\n")
        return self._file.readline().strip() == word

    def ended(self) -> bool:
        try:
            return self._file.read() == b""
        except (OSError, ssl.SSLError):
            return True

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@pytest.fixture
def new_session(pool: Served, certificates: Certificates, container: str) -> Iterator[Callable[[str], Session]]:
    with (
        contextlib.ExitStack() as stack,
        contextlib.closing(docker.APIClient(base_url=pool.url, version="1.41")) as client,
    ):
        client.start(container)  # an engine that was killed has ended it

        def make(way: str) -> Session:
            script = ["sh", "-c", "stty -echo; echo ready; exec cat"]
            made = client.exec_create(container, script, stdin=True, tty=True)
            session = Session(pool, certificates, way, made["Id"])
            stack.callback(session.close)
            wait_until(lambda: session._file.readline().strip() == b"ready", "cat runs")
            return session

        yield make


@pytest.mark.parametrize("way", WAYS)
def test_two_hundred_at_once_are_not_mixed_up(pool: Served, new_session: Callable[[str], Session], way: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with ThreadPoolExecutor(8) as workers:
            sessions = list(workers.map(lambda _: new_session(way), range(SESSIONS)))
            asked = [(session, b"word-%d" % number) for number, session in enumerate(sessions)]
            assert all(workers.map(lambda one: one[0].echoes(one[1]), asked))
        assert pool.pool.open_connections >= SESSIONS
        for session in sessions:
            session.close()
        no_connections_left(pool)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_goes_away_ends_its_connection_to_the_engine(
    pool: Served, new_session: Callable[[str], Session], way: str
) -> None:
    leaving, staying = new_session(way), new_session(way)
    assert leaving.echoes(b"here")
    before = pool.pool.open_connections
    leaving.close()
    wait_until(lambda: pool.pool.open_connections < before, "the connection to the engine is closed")
    assert staying.echoes(b"still")


@pytest.mark.parametrize("way", WAYS)
def test_an_engine_that_goes_away_ends_its_clients_connections(
    engine: Engine, pool: Served, new_session: Callable[[str], Session], way: str
) -> None:
    session = new_session(way)
    assert session.echoes(b"here")
    engine.kill()
    try:
        assert session.ended()
        session.close()
        no_connections_left(pool)
    finally:
        engine.start()

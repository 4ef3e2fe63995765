"""Docker's streams as its clients see them: what has to hold of connections that were taken over, whoever serves them.

Docker's own command line is the judge: bytes in are bytes out, and exit codes are the commands'. Where it matters when
and how a connection ends, a client by hand takes its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import pty
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlsplit

import attrs
from certificates import Certificates

WITHIN_S: Final = 120.0
LARGE: Final = os.urandom(2**20) * 50
#: Docker's command line in the versions that are installed; the API of the older one is spoken as well.
CLIENTS: Final = sorted(
    {os.path.realpath(path) for path in ("/usr/bin/docker", "/usr/local/bin/docker", shutil.which("docker")) if path}
)
OPENED_AT_ONCE: Final = 8
FULL_AFTER_S: Final = 0.5
PIECE_BYTES: Final = 100_000
RESET: Final = struct.pack("ii", 1, 0)
#: A container that does nothing, and ends at once when it is told to; or an engine's restart takes ten seconds.
IDLE: Final = ("sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait")


@attrs.frozen
class Entrance:
    """A Docker API. url: as `docker -H` takes it. certificates: its clients need one of these."""

    url: str
    certificates: Certificates | None = None

    def options(self) -> tuple[str, ...]:
        """Of Docker's command line."""
        if self.certificates is None:
            return ("-H", self.url)
        files = (f"--tls{kind}={path}" for kind, path in self.certificates.named.items())
        return ("--tlsverify", *files, "-H", self.url)

    def connect(self) -> socket.socket:
        parts = urlsplit(self.url)
        if parts.scheme == "unix":
            made = socket.socket(socket.AF_UNIX)
            made.settimeout(WITHIN_S)
            made.connect(parts.path)
            return made
        made = socket.create_connection((parts.hostname, parts.port), timeout=WITHIN_S)
        if self.certificates is None:
            return made
        context = self.certificates.client(certificate=True)
        return context.wrap_socket(made, server_hostname="localhost", suppress_ragged_eofs=False)


@attrs.frozen
class Way:
    """One of Docker's command lines, and how it comes in. container: one that runs. place: options for further ones."""

    program: str
    entrance: Entrance
    container: str
    place: tuple[str, ...] = ()

    def command(self, *words: str) -> list[str]:
        return [self.program, *self.entrance.options(), *words]

    def call(self, *words: str, sent: bytes = b"") -> tuple[int, bytes]:
        """The exit code, and what was said on standard output."""
        done = subprocess.run(self.command(*words), input=sent, capture_output=True, timeout=WITHIN_S, check=False)
        assert done.returncode < 125, done.stderr
        return done.returncode, done.stdout

    def run(self, *words: str, sent: bytes = b"") -> tuple[int, bytes]:
        return self.call("run", "--rm", *self.place, *words, sent=sent)

    def execute(self, *words: str, sent: bytes = b"") -> tuple[int, bytes]:
        return self.call("exec", "-i", self.container, *words, sent=sent)


# What is checked on each way


def run_shows_what_is_said_and_how_it_ended(way: Way) -> None:
    assert way.run("busybox", "sh", "-c", "echo out; exit 7") == (7, b"out\n")


def run_with_input_gives_back_what_it_got(way: Way) -> None:
    data = os.urandom(100_000)
    assert way.run("-i", "busybox", "cat", sent=data) == (0, data)


def what_is_said_after_the_end_of_the_input_arrives(way: Way) -> None:
    script = "wc -c; sleep 1; echo late; exit 3"
    assert way.execute("sh", "-c", script, sent=b"12345678") == (3, b"8\nlate\n")


def both_outputs_stay_apart(way: Way) -> None:
    script = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo out $i; echo err $i >&2; done; exit 6"
    done = subprocess.run(way.command("exec", way.container, "sh", "-c", script), capture_output=True, check=False)
    wanted = [b"".join(b"%b %d\n" % (kind, number) for number in range(1, 301)) for kind in (b"out", b"err")]
    assert (done.returncode, done.stdout, done.stderr) == (6, *wanted)


def three_megabytes_there_and_back(way: Way) -> None:
    data = os.urandom(3 * 2**20)
    assert way.execute("cat", sent=data) == (0, data)


def attach_takes_part_in_what_runs(way: Way) -> None:
    script = "read line; echo got $line; exit 5"
    made = way.call("create", "-i", *way.place, "busybox", "sh", "-c", script)[1].decode().strip()
    assert way.call("start", "-a", "-i", made, sent=b"this\n") == (5, b"got this\n")
    way.call("rm", made)


def a_terminal_is_one(way: Way) -> None:
    ours, theirs = pty.openpty()
    try:
        command = way.command("exec", "-it", way.container, "sh", "-c", "test -t 0 && read x && echo got $x && exit 4")
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


CHECKS: Final[Sequence[Callable[[Way], None]]] = (
    run_shows_what_is_said_and_how_it_ended,
    run_with_input_gives_back_what_it_got,
    what_is_said_after_the_end_of_the_input_arrives,
    both_outputs_stay_apart,
    three_megabytes_there_and_back,
    attach_takes_part_in_what_runs,
    a_terminal_is_one,
)


def fifty_megabytes_at_once(way: Way) -> None:
    """There while they come back."""
    code, out = way.execute("cat", sent=LARGE)
    assert (code, len(out), hashlib.sha256(out).digest()) == (0, len(LARGE), hashlib.sha256(LARGE).digest())


def fifty_megabytes_each_way(way: Way) -> None:
    digest = hashlib.sha256(LARGE).hexdigest().encode()
    assert way.execute("sha256sum", sent=LARGE) == (0, digest + b"  -\n")
    way.execute("sh", "-c", "cat >/tmp/large", sent=LARGE)
    code, out = way.execute("cat", "/tmp/large")
    assert (code, hashlib.sha256(out).hexdigest().encode()) == (0, digest)


# By hand


class Session:
    """The client's end of a connection that was taken over by a command at a terminal. script: what runs there; as it
    is, it gives back what it is given."""

    def __init__(self, entrance: Entrance, container: str, script: str = "exec cat") -> None:
        self.socket = entrance.connect()
        made = self._exec(container, f"stty -echo; echo ready; {script}")
        body = json.dumps({"Detach": False, "Tty": True}).encode()
        self.socket.sendall(
            f"POST /v1.41/exec/{made}/start HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        self._file = self.socket.makefile("rb")
        head = list(iter(self._file.readline, b"\r\n"))
        assert head, "there is an answer"
        assert b" 101 " in head[0], head
        assert self._file.readline().strip() == b"ready", "the command runs"

    def _exec(self, container: str, script: str) -> str:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = self.socket
        streams = {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "Tty": True}
        asked = json.dumps({"Cmd": ["sh", "-c", script], **streams})
        connection.request("POST", f"/v1.41/containers/{container}/exec", asked, {"Content-Type": "application/json"})
        answer = json.load(connection.getresponse())
        assert "Id" in answer, answer
        return str(answer["Id"])

    def says(self, word: bytes) -> bytes:
        """What comes back to this word."""
        self.socket.sendall(word + b"\n")
        return self._file.readline().strip()

    def fill(self) -> None:
        """Gives what nobody takes, until there is no room for more."""
        self.socket.settimeout(FULL_AFTER_S)
        with contextlib.suppress(TimeoutError):
            while True:
                self.socket.sendall(bytes(PIECE_BYTES))

    def vanish(self) -> None:
        """As the system ends the connections of a client that is killed and has not read everything."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.close()

    def end(self) -> str:
        """Waits for it: "end", or how the connection broke off. Fails when there is more to read."""
        try:
            rest = self._file.read()
        except OSError as error:
            return type(error).__name__
        assert rest == b"", rest[:100]
        return "end"

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@contextlib.contextmanager
def sessions(places: Sequence[tuple[Entrance, str]], script: str = "exec cat") -> Iterator[list[Session]]:
    """One for each of these entrances and containers, all at once."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(OPENED_AT_ONCE) as workers:

        def opened(place: tuple[Entrance, str]) -> Session:
            session = Session(*place, script)
            stack.callback(session.close)
            return session

        yield list(workers.map(opened, places))


def are_not_mixed_up(opened: Sequence[Session]) -> None:
    """Each gives back what it alone was given."""
    words = [b"word-%d" % number for number in range(len(opened))]
    with ThreadPoolExecutor(OPENED_AT_ONCE) as workers:
        said = list(workers.map(Session.says, opened, words))
    assert said == words, {word: one for word, one in zip(words, said, strict=True) if one != word}

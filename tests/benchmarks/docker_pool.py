"""A pool of engines behind real agents, each in a process of its own but the first, and clients that cost little.

The first engine's agent is in the server's process, the others' are `orlop agent`s on loopback.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from engines import Engine
from ports import free_port
from running import RunningOrlop, wait_until

from .services import LOG_TAIL_CHARACTERS

TIMEOUT_S: Final = 120.0
JOINED_WITHIN_S: Final = 60.0
STREAM_HEAD_BYTES: Final = 8


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """The Docker API at `unix:///path` or `http://host:port`, over one connection that is kept. Not for threads to
    share."""

    def __init__(self, url: str) -> None:
        self._connection = _connection(url)
        self.url = url

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's document, None when it is empty. Raises AssertionError when it is no success."""
        data = orjson.dumps(body) if body is not None else None
        self._connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status < 300, f"{method} {path}: {answer.status} {content[:500]!r}"
        return orjson.loads(content) if content else None

    def create(self, body: Mapping[str, Any]) -> str:
        """The container's id."""
        return str(self.call("POST", "/containers/create", body)["Id"])

    def remove(self, container: str) -> None:
        self.call("DELETE", f"/containers/{container}?force=1")

    def close(self) -> None:
        self._connection.close()


def _connection(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return _UnixConnection(parts.path)
    assert parts.hostname is not None
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)


def command_socket(url: str, container: str, *words: str) -> tuple[socket.socket, bytes]:
    """A command in a container, as a connection with its input and output, and what it has said already."""
    with contextlib.closing(Client(url)) as client:
        asked = {"Cmd": words, "AttachStdin": True, "AttachStdout": True, "AttachStderr": True}
        made = client.call("POST", f"/containers/{container}/exec", asked)["Id"]
    connection = _connection(url)
    connection.connect()
    body = b'{"Detach":false,"Tty":false}'
    lines = [f"POST /exec/{made}/start HTTP/1.1", f"Host: {connection.host}", "Content-Type: application/json"]
    lines += ["Connection: Upgrade", "Upgrade: tcp", f"Content-Length: {len(body)}", "", ""]
    connection.sock.sendall("\r\n".join(lines).encode() + body)
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.sock.recv(65536)
        assert piece, received
        received += piece
    head, _, rest = received.partition(b"\r\n\r\n")
    assert b" 101 " in head, head
    return connection.sock, rest


class Pool:
    """One `orlop up`, an agent for each further engine, and the Docker API over all of them."""

    def __init__(self, folder: Path, urls: Sequence[str]) -> None:
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        self.orlop = RunningOrlop(
            folder,
            docker=urls[0],
            ORLOP_PLUGINS__SWARM__LISTEN=f'["{address}"]',
            ORLOP_AGENT__NAME=node_name(0),
            ORLOP_AGENT__RUNTIMES='["docker"]',
        )
        self._folder = folder
        self._urls = urls
        self._agents: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Until all engines can be used."""
        self.orlop.launch()
        wait_until(self._answers, "orlop up answers", JOINED_WITHIN_S)
        for number in range(1, len(self._urls)):
            self._agents.append(self._agent(number))
        self.wait_joined()

    def wait_joined(self) -> None:
        """Until all engines can be used."""
        wait_until(self._joined, "all agents have joined with their engines", JOINED_WITHIN_S)

    def kill_agent(self, number: int) -> None:
        """kill -9 of the agent of this engine, not the first one's."""
        agent = self._agents[number - 1]
        agent.kill()
        agent.wait()

    def start_agent(self, number: int) -> None:
        """After `kill_agent`; does not wait for it."""
        self._agents[number - 1] = self._agent(number)

    def _answers(self) -> bool:
        try:
            return bool(self.orlop.get(f"{self.orlop.url}/v1/nodes")["nodes"])
        except OSError:
            return False

    def _agent(self, number: int) -> subprocess.Popen[bytes]:
        name = node_name(number)
        environment = {
            **os.environ,
            "ORLOP_AGENT__DOCKER": self._urls[number],
            "ORLOP_AGENT__RUNTIMES": '["docker"]',
            "ORLOP_AGENT__NAME": name,
        }
        words = ["agent", "--join", self.orlop.url, "--data", str(self._folder / name)]
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "orlop", *words],
                cwd=self._folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _joined(self) -> bool:
        nodes = self.orlop.get(f"{self.orlop.url}/v1/nodes")["nodes"]
        usable = [node for node in nodes if node["state"] == "ready" and "docker" in node["runtimes"]]
        return len(usable) == len(self._urls)

    def pids(self) -> list[int]:
        """Of the server and of all agents."""
        assert self.orlop.process is not None
        return [self.orlop.process.pid, *(agent.pid for agent in self._agents)]

    def logs(self) -> str:
        return "\n".join(
            f"{path.name}:\n{path.read_text(errors='replace')[-LOG_TAIL_CHARACTERS:]}"
            for path in sorted(self._folder.glob("*.log"))
        )

    def close(self) -> None:
        for agent in self._agents:
            agent.send_signal(signal.SIGKILL)
            agent.wait()
        self.orlop.close()


def node_name(number: int) -> str:
    return f"n{number:02d}"


@contextlib.contextmanager
def running_pool(urls: Sequence[str]) -> Iterator[Pool]:
    """One whose engines can all be used; it and its folder are gone afterwards, containers are not."""
    with tempfile.TemporaryDirectory(prefix="orlop-bench-", ignore_cleanup_errors=True) as folder:
        pool = Pool(Path(folder), urls)
        try:
            pool.start()
            yield pool
        except BaseException:
            print(f"the ends of Orlop's logs:\n{pool.logs()}", file=sys.stderr)
            raise
        finally:
            pool.close()


def share_image(first: Engine, others: Sequence[Engine]) -> None:
    """One and the same busybox on all: an import makes another one each time."""
    with contextlib.closing(first.client()) as client:
        archive = b"".join(client.get_image("busybox:latest"))
    for engine in others:
        with contextlib.closing(engine.client()) as client:
            client.remove_image("busybox:latest", force=True)
            for _ in client.load_image(archive):
                continue

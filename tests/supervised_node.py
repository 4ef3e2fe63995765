"""A node with a supervisor as a program, for tests: what is asked of it and what it tells."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import waiting
from waiting import is_alive

from orlop.agent import supervisor
from orlop.agent.cgroups import ControlGroups
from orlop.agent.supervisor import remains

SOURCE = Path(supervisor.__file__).parent
WITHIN_S = 30.0
SLEEP = ["/bin/sleep", "1000"]

wait_until = functools.partial(waiting.wait_until, deadline_s=WITHIN_S)


@attrs.define
class Connection:
    """What a client hears."""

    socket: socket.socket
    heard: list[dict[str, Any]] = attrs.field(factory=list)
    _rest: bytes = b""

    def send(self, **message: Any) -> None:
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def wait(self, what: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The first message that is so, of those that were not waited for yet; the others stay, for news of different
        tasks comes in any order."""
        deadline = time.monotonic() + WITHIN_S
        while True:
            for position, message in enumerate(self.heard):
                if what(message):
                    return self.heard.pop(position)
            assert select.select([self.socket], [], [], deadline - time.monotonic())[0], "nothing is heard"
            data = self.socket.recv(1 << 20)
            assert data, "the supervisor has closed the connection"
            *lines, self._rest = (self._rest + data).split(b"\n")
            self.heard += map(json.loads, lines)

    def wait_for(self, kind: str, task: str = "") -> dict[str, Any]:
        def fits(message: dict[str, Any]) -> bool:
            of = message.get("task")
            name = of["task"] if isinstance(of, dict) else of
            return message["is"] == kind and (not task or name == task)

        return self.wait(fits)

    def ended(self, task: str) -> dict[str, Any]:
        return self.wait_for("exited", task)["task"]["exit"]


@attrs.define
class Node:
    """A folder with a supervisor, and what was started there."""

    data: Path
    source: Path = SOURCE
    idle_exit_s: float = 60.0
    groups: tuple[str, ...] = ()
    connections: list[Connection] = attrs.field(factory=list)

    def options(self, **other: Any) -> dict[str, Any]:
        return {
            "data": str(self.data),
            "version": "first",
            "idle_exit_s": self.idle_exit_s,
            "groups": list(self.groups),
            **other,
        }

    def launch(self) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-I", "-S", str(self.source / "__main__.py"), json.dumps(self.options())]
        return subprocess.run(command, capture_output=True, timeout=WITHIN_S, check=False)

    def connect(self) -> Connection:
        connection = Connection(socket.socket(socket.AF_UNIX))
        self.connections.append(connection)
        connection.socket.connect(str(self.data / "supervisor.sock"))
        return connection

    def open(self) -> tuple[Connection, dict[str, Any]]:
        """A connection, to a new supervisor if there is none, and its list."""
        try:
            connection = self.connect()
        except (FileNotFoundError, ConnectionRefusedError):
            assert self.launch().returncode == 0
            connection = self.connect()
        return connection, connection.wait_for("list")

    def request(self, task: str, *arguments: str, **other: Any) -> dict[str, Any]:
        return {
            "do": "start",
            "task": task,
            "incarnation": 1,
            "folder": str(self.data),
            "arguments": list(arguments),
            "environment": {"PATH": "/usr/bin:/bin", remains.MARK: task},
            "directory": str(self.data),
            "stdout": str(self.data / "stdout"),
            "stderr": str(self.data / "stderr"),
            "groups": [],
            **other,
        }

    def close(self) -> None:
        connection, listed = self.open()
        for entry in listed["tasks"]:
            if "exit" not in entry:
                connection.send(do="kill", task=entry["task"])
                connection.ended(entry["task"])
        for opened in self.connections:
            opened.socket.close()
        os.kill(listed["pid"], signal.SIGTERM)
        wait_until(lambda: not is_alive(listed["pid"]), "the supervisor ends")


def remove_node_groups(groups: ControlGroups) -> None:
    for path in groups.supervisor():
        wait_until(lambda path=path: not Path(path, "cgroup.procs").read_text(), f"{path} is empty")
        os.rmdir(path)
        wait_until(lambda path=path: not [f for f in Path(path).parent.iterdir() if f.is_dir()], f"{path} is bare")
        os.rmdir(Path(path).parent)
        with contextlib.suppress(OSError):  # another node of this machine may have its own there
            os.rmdir(Path(path).parent.parent)


def pids_in(path: Path) -> list[int]:
    """The numbers that a task has written to a file, each with a newline."""
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

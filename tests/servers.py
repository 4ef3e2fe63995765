"""Real servers of one cluster for tests: several `orlop server` on an etcd, and agents of theirs on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

from ports import free_port
from running import DEADLINE_S, processes_naming, processes_with_environment, wait_until

LEASE_S: Final = 3
ANSWER_WITHIN_S: Final = 10.0


class ServerProcess:
    """One `orlop server`. `start`, `kill`, `hold` and `go_on` may be called again and again.

    program: what it is started from.
    """

    program: tuple[str, ...] = ("-m", "orlop")

    def __init__(self, folder: Path, name: str, store_url: str, **settings: str) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.log = self.folder / "log"
        self.address = f"127.0.0.1:{free_port()}"
        self.marathon_address = f"127.0.0.1:{free_port()}"
        self.chronos_address = f"127.0.0.1:{free_port()}"
        self.swarm_address = f"127.0.0.1:{free_port()}"
        self.process: subprocess.Popen[bytes] | None = None
        self._environment = {
            **os.environ,
            "ORLOP_STORE__URL": store_url,
            "ORLOP_STORE__TIMEOUT_S": str(LEASE_S),
            "ORLOP_CLUSTER__LEASE_S": str(LEASE_S),
            "ORLOP_SERVER__LISTEN": self.address,
            "ORLOP_PLUGINS__MARATHON__LISTEN": self.marathon_address,
            "ORLOP_PLUGINS__CHRONOS__LISTEN": self.chronos_address,
            "ORLOP_PLUGINS__SWARM__LISTEN": f'["{self.swarm_address}"]',
            **settings,
        }

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def marathon(self) -> str:
        return f"http://{self.marathon_address}"

    def start(self) -> None:
        """Does not wait."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.program, "server", "--data", str(self.folder / "data"), "--verbose"],
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def cli(self, *arguments: str) -> str:
        """Output of an `orlop` command against this server, which must succeed."""
        command = [sys.executable, "-m", "orlop", "--server", self.url, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{arguments}: {done.returncode}, {done.stdout}{done.stderr}"
        return done.stdout

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def health(self) -> dict[str, Any]:
        """Empty while it does not answer."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            with error:
                return dict(json.load(error))
        except OSError:
            return {}

    @property
    def leads(self) -> bool:
        health = self.health()
        return health.get("role") == "leader"


class Servers:
    """All servers of one cluster."""

    def __init__(self, folder: Path, store_url: str, count: int = 3, **settings: str) -> None:
        self.all = [ServerProcess(folder, f"server{number}", store_url, **settings) for number in range(count)]

    def start(self) -> None:
        """All of them, until one leads and the others know it."""
        for server in self.all:
            server.start()
        wait_until(self._settled_or_ended, lambda: f"one leads and the others follow; {self.logs()}", 2 * DEADLINE_S)

    def _settled_or_ended(self) -> bool:
        ended = [one.name for one in self.all if one.process is not None and one.process.poll() is not None]
        assert not ended, f"{ended} ended; {self.logs()}"
        return self.settled()

    def settled(self) -> bool:
        """Does one lead, and do the others follow it?"""
        healths = [(server.url, server.health()) for server in self.all]
        leaders = [url for url, health in healths if health.get("role") == "leader"]
        followed = {health.get("leader") for _, health in healths if health.get("role") == "standby"}
        well = all(health.get("status") == "ok" for _, health in healths)
        return well and len(leaders) == 1 and followed <= set(leaders)

    def leader(self) -> ServerProcess:
        """Waits until there is one."""
        return wait_until(
            lambda: next((server for server in self.all if server.leads), None),
            lambda: f"a server leads; {self.logs()}",
        )

    def others(self, than: ServerProcess) -> list[ServerProcess]:
        return [server for server in self.all if server is not than]

    def logs(self) -> str:
        return "\n".join(f"{one.name}: {one.log.read_text()[-1500:]}" for one in self.all if one.log.exists())

    def close(self) -> None:
        for server in self.all:
            server.close()


class AgentProcess:
    """One `orlop agent` of these servers, whichever version it is."""

    def __init__(self, folder: Path, name: str, servers: Servers, ports: str = "31000-31099") -> None:
        self.name = name
        self.data = folder / name
        self.log = folder / f"{name}.log"
        self._servers = servers
        self._environment = {
            **os.environ,
            "ORLOP_AGENT__NAME": name,
            "ORLOP_AGENT__DOCKER": "unix:///nonexistent/docker.sock",
            "ORLOP_AGENT__RUNTIMES": '["process"]',
            "ORLOP_AGENT__RESOURCES__PORTS": ports,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, program: tuple[str, ...] = ServerProcess.program) -> None:
        joined = [word for server in self._servers.all for word in ("--join", server.url)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program, "agent", "--data", str(self.data), "--verbose", *joined],
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        return self.log.read_text()

    def tasks(self) -> dict[int, str]:
        """pid → the folder of its task, as the machine sees them."""
        mark = f"MESOS_SANDBOX={self.data}/tasks/"
        found = {}
        for pid in processes_with_environment(mark):
            with contextlib.suppress(OSError):
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                found[pid] = next(one for one in variables if one.startswith(b"MESOS_SANDBOX=")).decode()
        return found

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for pid in {*self.tasks(), *processes_naming(str(self.data))}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def call(url: str, method: str = "GET", body: Any = None, timeout_s: float = ANSWER_WITHIN_S) -> tuple[int, Any, Any]:
    """(status, document, headers) of any answer. Raises OSError when there is none."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.status, json.load(answer), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            text = error.read()
            return error.code, json.loads(text) if text else None, error.headers

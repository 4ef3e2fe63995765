"""Runs a real `orlop up` for tests: free ports, a folder of its own, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from node_groups import remove_groups_below
from ports import free_port
from waiting import DEADLINE_S, wait_until


def process_app(app_id: str, instances: int, **members: Any) -> dict[str, Any]:
    """An app that sleeps as a process."""
    return {"id": app_id, "cmd": "exec sleep 1000", "cpus": 0.001, "mem": 1, "instances": instances, **members}


def container_app(app_id: str, instances: int, **members: Any) -> dict[str, Any]:
    """The same in a container, which ends as soon as it is asked to."""
    container = {"type": "DOCKER", "docker": {"image": "busybox:latest"}}
    command = "trap 'exit 0' TERM; sleep 1000 & wait"
    return process_app(app_id, instances, cmd=command, mem=16, container=container, **members)


class RunningOrlop:
    """One `orlop up`. `start`, `kill` and `stop` may be called again and again on the same data folder.

    With ORLOP_SERVER__AUTH="on" it is spoken to as its administrator.
    """

    def __init__(self, folder: Path, docker: str = "unix:///nonexistent/docker.sock", **settings: str) -> None:
        self.data = folder / "data"
        self.log = folder / "orlop.log"
        self.address = f"127.0.0.1:{free_port()}"
        self.marathon_address = f"127.0.0.1:{free_port()}"
        self.chronos_address = f"127.0.0.1:{free_port()}"
        self.swarm_address = f"127.0.0.1:{free_port()}"
        self._environment = {
            **os.environ,
            "ORLOP_SERVER__LISTEN": self.address,
            "ORLOP_PLUGINS__MARATHON__LISTEN": self.marathon_address,
            "ORLOP_PLUGINS__CHRONOS__LISTEN": self.chronos_address,
            "ORLOP_PLUGINS__SWARM__LISTEN": f'["{self.swarm_address}"]',
            "ORLOP_AGENT__DOCKER": docker,
            **settings,
        }
        self._folder = folder
        self._secure = settings.get("ORLOP_SERVER__AUTH") == "on"
        self._scheme = "https" if self._secure else "http"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self.address}"

    @property
    def marathon(self) -> str:
        return f"{self._scheme}://{self.marathon_address}"

    @property
    def _admin(self) -> str:
        return (self.data / "admin.token").read_text().strip()

    def _open(self, request: urllib.request.Request, within_s: float) -> Any:
        """The answer. Raises OSError, also for what is no success."""
        if not self._secure:
            return urllib.request.urlopen(request, timeout=within_s)
        request.add_header("Authorization", f"Bearer {self._admin}")
        context = ssl.create_default_context(cafile=str(self.data / "ca.pem"))
        return urllib.request.urlopen(request, timeout=within_s, context=context)

    def start(self, *options: str) -> None:
        """Starts it and waits until both APIs answer."""
        self.launch(*options)
        wait_until(self.answers, f"orlop up answers; its log: {self._tail()}")

    def launch(self, *options: str) -> None:
        """Starts it, whatever comes of it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "orlop", "up", "--data", str(self.data), *options],
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"orlop up ended: {self._tail()}"
        try:
            self._open(urllib.request.Request(f"{self.marathon}/ping"), 5).close()
        except OSError:
            return False
        return bool(self.get(f"{self.url}/v1/nodes")["nodes"])

    def _tail(self) -> str:
        return self.log.read_text()[-3000:] if self.log.exists() else ""

    def kill(self) -> None:
        """kill -9 of the whole of Orlop's process."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """A planned stop; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        """Ends Orlop, its supervisor, and all tasks."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        end_processes_of(self.data)

    def task_processes(self) -> list[int]:
        """Processes whose environment names a task of this data folder."""
        return processes_with_environment(f"MESOS_SANDBOX={self.data}")

    def get(self, url: str) -> Any:
        with self._open(urllib.request.Request(url), 30) as answer:
            return json.load(answer)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """A call to Marathon's API. Raises urllib.error.HTTPError."""
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.marathon + path, data, headers, method=method)
        with self._open(request, 60) as answer:
            return json.load(answer)

    def put(self, app: dict[str, Any]) -> None:
        """Creates or changes an app; a deployment of it that is under way gives way."""
        self.call("PUT", f"/v2/apps{app['id']}?force=true", app)

    def running(self, app_id: str) -> dict[str, str]:
        """task id → pid or container id of an app's running tasks."""
        tasks = self.get(f"{self.url}/v1/tasks?group={app_id}&state=running")["tasks"]
        return {task["id"]: task["external_id"] for task in tasks}

    def runtimes(self) -> list[str]:
        """Those that the node can use now."""
        found: list[str] = self.get(f"{self.url}/v1/nodes")["nodes"][0]["runtimes"]
        return found

    def app(self, app_id: str) -> Any:
        return self.call("GET", f"/v2/apps{app_id}")["app"]

    def wait_deployed(self, deadline_s: float = DEADLINE_S) -> None:
        """Until no deployment is under way."""
        wait_until(lambda: not self.call("GET", "/v2/deployments"), f"deployments end; {self._tail()}", deadline_s)

    def _as_administrator(self) -> dict[str, str]:
        """Variables of the command line."""
        return {"ORLOP_TOKEN": self._admin, "ORLOP_CA": str(self.data / "ca.pem")} if self._secure else {}

    def cli(self, *arguments: str, code: int = 0) -> str:
        """Output of an `orlop` command against this server, which must end with this exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "orlop", "--server", self.url, *arguments],
            capture_output=True,
            text=True,
            env=self._environment | self._as_administrator(),
            timeout=120,
            check=False,
        )
        assert done.returncode == code, f"{arguments}: {done.returncode}, {done.stdout}{done.stderr}"
        return done.stdout + done.stderr


def sockets(pid: int) -> int:
    """How many a process has."""
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(entry).startswith("socket:")
    return count


def end_processes_of(data: Path) -> None:
    """Kills the supervisor and all tasks of an agent with this data folder, and removes their control groups."""

    def killed() -> list[int]:
        found = processes_naming(str(data)) + processes_with_environment(f"MESOS_SANDBOX={data}")
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return found

    # Again until none is left: a task that starts others meanwhile is quicker than one look at all processes.
    wait_until(lambda: not killed(), f"the supervisor and the tasks of {data} end")
    remove_groups_below(data)


def processes_naming(text: str) -> list[int]:
    """Pids whose command line contains the text, but this process."""
    return _processes("cmdline", text)


def processes_with_environment(text: str) -> list[int]:
    """Pids whose environment has a variable that begins with the text."""
    return _processes("environ", text)


def _processes(file: str, text: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if text.encode() in (entry / file).read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found

"""Hosts for tests, as network namespaces on one bridge, and a cluster of real processes on them.

Each host has an address of its own and a link that can be cut; its processes see this machine's files. A `Lane` of
`engines` gives the bridge, and sweeps what a killed session left behind.

Needed: Linux, root, `ip`, `iptables`, `nsenter`. Where that is missing, tests are skipped; with CI set, they fail.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from engines import Lane, _run
from running import DEADLINE_S, processes_naming, wait_until
from waiting import is_alive

NEEDED_PROGRAMS: Final = ("ip", "iptables", "nsenter")
SERVER_PORT: Final = 5050
MARATHON_PORT: Final = 8080
CHRONOS_PORT: Final = 4400


def missing() -> str:
    """Why no host can be made here; empty when one can."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    absent = [name for name in NEEDED_PROGRAMS if shutil.which(name) is None]
    return f"needs {', '.join(absent)} (Debian: iproute2 iptables)" if absent else ""


class Host:
    """One host. address: on the bridge."""

    def __init__(self, lane: Lane, name: str, number: int) -> None:
        self.name = name
        self.address = f"{lane.subnet}.{number}"
        self.folder = lane.folder / name
        self.folder.mkdir()
        self._namespace = f"{lane.name}-{name}"
        self._outer = f"t{lane.number}h{number}"
        self._bridge = lane.name
        self._subnet = f"{lane.subnet}.0/24"
        _run("ip", "netns", "add", self._namespace)
        _run("ip", "link", "add", self._outer, "type", "veth", "peer", "name", "eth0", "netns", self._namespace)
        _run("ip", "link", "set", self._outer, "master", self._bridge, "up")
        _run("ip", "-n", self._namespace, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _run("ip", "-n", self._namespace, "link", "set", device, "up")

    def command(self, *words: str) -> list[str]:
        """The command as it is run here."""
        return ["nsenter", f"--net=/run/netns/{self._namespace}", *words]

    def cut_off(self) -> None:
        """Everything to and from it is dropped without a word, and its system knows of its own that it was."""
        for chain in ("INPUT", "OUTPUT"):
            _run(
                *self.command(
                    "iptables", "-w", "-A", chain, "!", "-o" if chain == "OUTPUT" else "-i", "lo", "-j", "DROP"
                )
            )

    def wait_long(self) -> None:
        """TCP waits here as in a host that is 60 ms away, until it first sends again what was lost."""
        _run("ip", "-n", self._namespace, "route", "replace", self._subnet, "dev", "eth0", "rto_min", "260ms")

    def lose(self) -> None:
        """Everything to and from it is lost on the way, and nobody is told."""
        _run("ip", "link", "set", self._outer, "nomaster")

    def ignore(self, address: str) -> None:
        """What comes from this address is lost."""
        _run(*self.command("iptables", "-w", "-A", "INPUT", "-s", address, "-j", "DROP"))

    def cut_incoming(self) -> None:
        """It is heard, and hears nothing."""
        _run(*self.command("iptables", "-w", "-A", "INPUT", "!", "-i", "lo", "-j", "DROP"))

    def unplug(self) -> None:
        """Its cable is pulled."""
        _run("ip", "-n", self._namespace, "link", "set", "eth0", "down")

    def mend(self) -> None:
        """All of it works again."""
        _run(*self.command("iptables", "-w", "-F"))
        _run("ip", "-n", self._namespace, "link", "set", "eth0", "up")
        _run("ip", "link", "set", self._outer, "master", self._bridge)


class Process:
    """An `orlop` process on a host, with a data folder; `start` it as often as you like.

    program: what it is started from.
    """

    program: tuple[str, ...] = ("-m", "orlop")

    def __init__(self, host: Host, name: str, environment: Mapping[str, str], *arguments: str) -> None:
        self.host = host
        self.name = name
        self.data = host.folder / name
        self.log = host.folder / f"{name}.log"
        self.arguments = arguments
        self._environment = {**os.environ, "ORLOP_AGENT__DOCKER": "unix:///nonexistent/docker.sock", **environment}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        """Does not wait for it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.host.command(
                    sys.executable, *self.program, *self.arguments, "--data", str(self.data), "--verbose", *more
                ),
                cwd=self.host.folder,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """A planned stop; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def ended(self) -> int:
        """Waits until it ends by itself; the exit code."""
        assert self.process is not None
        return self.process.wait(DEADLINE_S)

    def said(self) -> str:
        """All that it has said in all its lives."""
        return self.log.read_text() if self.log.exists() else ""

    def close(self) -> None:
        """Ends it, its supervisor and its tasks."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.kill_all()

    def kill_all(self) -> None:
        """kill -9 of it, its supervisor and its tasks."""
        for pid in processes_naming(str(self.data)) + [pid for pids in self.tasks().values() for pid in pids]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if self.process is not None:
            self.process.wait()

    def lose_power(self) -> None:
        """kill -9 of everything, so that nobody is left who could tell of the end of the others."""
        assert self.process is not None
        self.process.kill()
        wait_until(lambda: not _kill(processes_naming(str(self.data))), "Orlop's own processes end")
        wait_until(lambda: not _kill([pid for pids in self.tasks().values() for pid in pids]), "the tasks end")
        self.process.wait()

    def tasks(self, having: str = "") -> dict[str, list[int]]:
        """Task id → pids of its processes, as the machine sees them. having: only those with this variable."""
        found: dict[str, list[int]] = {}
        prefix = f"MESOS_SANDBOX={self.data}/tasks/".encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if having and not any(variable.startswith(f"{having}=".encode()) for variable in variables):
                continue
            for variable in variables:
                if variable.startswith(prefix):
                    task = variable.removeprefix(prefix).split(b"/")[0].decode()
                    found.setdefault(task, []).append(int(entry.name))
        return found


def _kill(pids: list[int]) -> list[int]:
    """Those that were there, and have been killed now."""
    found = []
    for pid in filter(is_alive, pids):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        found.append(pid)
    return found


class RemoteCluster:
    """A server on a host of its own, with authentication, and agents on others."""

    def __init__(self, hosts: Hosts, **settings: str) -> None:
        self.hosts = hosts
        host = hosts.host("server")
        self.url = f"https://{host.address}:{SERVER_PORT}"
        self.marathon = f"https://{host.address}:{MARATHON_PORT}"
        environment = {
            "ORLOP_SERVER__LISTEN": f"0.0.0.0:{SERVER_PORT}",
            "ORLOP_SERVER__ADVERTISE": f"{host.address}:{SERVER_PORT}",
            "ORLOP_SERVER__AUTH": "on",
            "ORLOP_PLUGINS__MARATHON__LISTEN": f"0.0.0.0:{MARATHON_PORT}",
            **settings,
        }
        self.server = Process(host, "server", environment, "server")
        self.agents: dict[str, Process] = {}

    def start_server(self) -> None:
        """Returns when it answers."""
        self.server.start()
        wait_until(self._answers, lambda: f"the server answers; {self.server.said()[-3000:]}")

    def _answers(self) -> bool:
        assert self.server.process is not None
        assert self.server.process.poll() is None, self.server.said()[-3000:]
        try:
            return bool(self.get("/v1/cluster"))
        except (OSError, ValueError):
            return False

    def add_agent(self, name: str, *, token: str | None = None, wait: bool = True) -> Process:
        """An agent on a new host, which joins with this token, or with one that is made for it."""
        made = self.agent(name)
        self.agents[name] = made
        made.start("--token", self.token() if token is None else token)
        if wait:
            self.wait_ready(name)
        return made

    def agent(self, name: str, url: str | None = None) -> Process:
        """An agent on a new host, not started."""
        environment = {"ORLOP_AGENT__NAME": name, "ORLOP_AGENT__RESOURCES__CPUS": "4"}
        return Process(self.hosts.host(name), "agent", environment, "agent", "--join", url or self.url)

    def token(self, *options: str) -> str:
        return self.cli("token", "create", *options).strip()

    def wait_ready(self, *names: str) -> None:
        """Until these nodes are ready, and all of them."""
        wait_until(lambda: {name for name, state in self.nodes().items() if state == "ready"} >= set(names), str(names))

    def nodes(self) -> dict[str, str]:
        """Name → state."""
        return {node["name"]: node["state"] for node in self.get("/v1/nodes")["nodes"]}

    def placed(self, group: str = "", state: str = "running") -> dict[str, str]:
        """Task id → name of its node, of tasks in this state."""
        query = f"?state={state}&group={group}" if group else f"?state={state}"
        return {task["id"]: task["node_name"] for task in self.get(f"/v1/tasks{query}")["tasks"]}

    def get(self, path: str, base: str | None = None) -> Any:
        return self.call("GET", path, base=base)

    def call(self, method: str, path: str, body: Any = None, base: str | None = None) -> Any:
        """A call to the operator API, or to Marathon's. Raises urllib.error.HTTPError."""
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.admin}"}
        request = urllib.request.Request((base or self.url) + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30, context=self.context()) as answer:
            return json.load(answer)

    def deploy(self, app_id: str, instances: int, **members: Any) -> None:
        """Creates or changes an app, and waits until it runs as wanted."""
        document = {"id": app_id, "cmd": "exec sleep 1000", "cpus": 0.01, "mem": 8, "instances": instances, **members}
        self.call("PUT", f"/v2/apps{app_id}?force=true", document, base=self.marathon)
        wait_until(lambda: not self.get("/v2/deployments", base=self.marathon), f"{app_id} is deployed")

    @property
    def admin(self) -> str:
        return (self.server.data / "admin.token").read_text().strip()

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.server.data / "ca.pem"))

    def environment(self) -> dict[str, str]:
        """For the command line."""
        return {
            **os.environ,
            "ORLOP_SERVER": self.url,
            "ORLOP_TOKEN": self.admin,
            "ORLOP_CA": str(self.server.data / "ca.pem"),
        }

    def cli(self, *arguments: str, code: int = 0, **options: Any) -> str:
        """Standard output of an `orlop` command, which must end with this exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "orlop", *arguments],
            capture_output=True,
            text=True,
            env=self.environment(),
            timeout=120,
            check=False,
            **options,
        )
        assert done.returncode == code, f"{arguments}: {done.returncode}, {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout if code == 0 else done.stdout + done.stderr

    def close(self) -> None:
        for process in (*self.agents.values(), self.server):
            process.close()


class Hosts:
    """Makes hosts; all of them end with the session."""

    def __init__(self) -> None:
        self.lane = Lane()
        self._made = 0

    def host(self, name: str) -> Host:
        """A new host."""
        self._made += 1
        return Host(self.lane, f"{name}-{self._made}", 10 + self._made)

    def close(self) -> None:
        self.lane.close()


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """Where hosts can be made."""
    if reason := missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no hosts: {reason}")
    made = Hosts()
    try:
        yield made
    finally:
        made.close()

"""A cluster of real processes on hosts of their own, and what breaks it.

Three etcd members, three servers with TLS, three agents, which are killed, stopped for a while, and cut off, in one
direction too. Nothing of that lasts long enough for one of these nodes to be given up. One more agent, the spare, is
left alone but for failures of its power: all of its processes end at once, and it is started again only when it has
been given up.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

from hosts import CHRONOS_PORT, MARATHON_PORT, SERVER_PORT, Host, Hosts, Process
from running import wait_until

from chaos.evidence import PowerFailure

LEASE_S: Final = 3
UNREACHABLE_AFTER_S: Final = 30
GONE_AFTER_S: Final = 40
TROUBLE_S: Final = (0.5, 8.0)
PAUSE_S: Final = (0.5, 3.0)
POWER_FAILS_AFTER_S: Final = (5.0, 20.0)
#: Without power while everything is broken; then servers and their store are left alone.
IN_TROUBLE_S: Final = (5.0, 30.0)
GIVEN_UP_WITHIN_S: Final = 3 * GONE_AFTER_S
POWER_LASTS_S: Final = (30.0, 60.0)
ANSWER_WITHIN_S: Final = 6.0
CONVERGED_WITHIN_S: Final = 90.0
NODES: Final = 4
#: The name of the node whose power fails.
SPARE: Final = "spare"


def utc_ms() -> int:
    return time.time_ns() // 1_000_000


class Workload(Protocol):
    """What clients do with the cluster, and what must have come of it."""

    def meanwhile(self) -> Sequence[Callable[[], None]]:
        """Each runs in a thread of its own, until `Cluster.over`."""

    def check(self) -> None:
        """After all is healed. Raises AssertionError."""


class Etcd:
    """One member on a host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.name = host.name
        self.process: subprocess.Popen[bytes] | None = None

    def arguments(self, cluster: str) -> None:
        at = self.host.address
        self._arguments = [
            "etcd", "--name", self.name, "--data-dir", str(self.host.folder / "etcd"), "--initial-cluster", cluster,
            "--listen-client-urls", f"http://{at}:2379", "--advertise-client-urls", f"http://{at}:2379",
            "--listen-peer-urls", f"http://{at}:2380", "--initial-advertise-peer-urls", f"http://{at}:2380",
        ]  # fmt: skip

    def start(self) -> None:
        with (self.host.folder / "etcd.log").open("ab") as log:
            self.process = subprocess.Popen(self.host.command(*self._arguments), stdout=log, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()


class Cluster:
    """The cluster, and what is done to it. Everything random comes from the seed.

    program: what Orlop is started from.
    """

    def __init__(self, hosts: Hosts, seed: int, program: tuple[str, ...] = Process.program) -> None:
        self._random = random.Random(seed)
        self.etcds = [Etcd(hosts.host(f"e{number}")) for number in range(3)]
        cluster = ",".join(f"{one.name}=http://{one.host.address}:2380" for one in self.etcds)
        for etcd in self.etcds:
            etcd.arguments(cluster)
        store = "etcd://" + ",".join(f"{one.host.address}:2379" for one in self.etcds)
        self.servers = [self._server(hosts.host(f"s{number}"), store) for number in range(3)]
        urls = [word for server in self.servers for word in ("--join", self.url(server))]
        self.agents = [self._agent(hosts, f"a{number}", urls) for number in range(NODES - 1)]
        self.spare = self._agent(hosts, SPARE, urls)
        for process in (*self.servers, *self.agents, self.spare):
            process.program = program
        self.power_failures: list[PowerFailure] = []
        self.done: list[str] = []
        self.over = threading.Event()
        self._calm = threading.Event()

    def chance(self) -> random.Random:
        """For one thread."""
        return random.Random(self._random.random())

    @staticmethod
    def _agent(hosts: Hosts, name: str, urls: list[str]) -> Process:
        environment = {"ORLOP_AGENT__NAME": name, "ORLOP_AGENT__RESOURCES__CPUS": "8"}
        return Process(hosts.host(name), "agent", environment, "agent", *urls)

    @staticmethod
    def _server(host: Host, store: str) -> Process:
        environment = {
            "ORLOP_STORE__URL": store,
            "ORLOP_STORE__TIMEOUT_S": str(LEASE_S),
            "ORLOP_CLUSTER__LEASE_S": str(LEASE_S),
            "ORLOP_CLUSTER__UNREACHABLE_AFTER_S": str(UNREACHABLE_AFTER_S),
            "ORLOP_CLUSTER__GONE_AFTER_S": str(GONE_AFTER_S),
            "ORLOP_SERVER__LISTEN": f"0.0.0.0:{SERVER_PORT}",
            "ORLOP_SERVER__ADVERTISE": f"{host.address}:{SERVER_PORT}",
            "ORLOP_SERVER__AUTH": "on",
            "ORLOP_PLUGINS__MARATHON__LISTEN": f"0.0.0.0:{MARATHON_PORT}",
            "ORLOP_PLUGINS__CHRONOS__LISTEN": f"0.0.0.0:{CHRONOS_PORT}",
            "ORLOP_PLUGINS__CHRONOS__HISTORY_COUNT": "10000",
        }
        return Process(host, "server", environment, "server")

    @staticmethod
    def url(server: Process) -> str:
        return f"https://{server.host.address}:{SERVER_PORT}"

    # Its life

    def start(self) -> None:
        """All of it, until every node is ready."""
        for etcd in self.etcds:
            etcd.start()
        first = self.servers[0]
        first.start()
        wait_until(
            lambda: (first.data / "admin.token").exists() and self.answers(first), lambda: f"it leads; {self.logs()}"
        )
        for server in self.servers[1:]:
            server.data.mkdir()
            for name in ("cluster.key", "admin.token"):
                shutil.copy(first.data / name, server.data / name)
            server.start()
        for agent in (*self.agents, self.spare):
            agent.start("--token", self.token())
        wait_until(lambda: self.ready_nodes() == NODES, lambda: f"all nodes are ready; {self.logs()}")
        wait_until(lambda: all(map(self.answers, self.servers)), lambda: f"all servers answer; {self.logs()}")

    def close(self) -> None:
        self.over.set()
        things: list[Process | Etcd] = [*self.agents, self.spare, *self.servers, *self.etcds]
        for thing in things:
            thing.host.mend()
            if isinstance(thing, Process) and thing.process is not None:
                thing.process.send_signal(signal.SIGCONT)
            thing.close()

    def token(self) -> str:
        found: str = self.call(self.servers[0], "POST", "/v1/tokens", {})["token"]
        return found

    def call(self, server: Process, method: str, path: str, body: Any = None, port: int = SERVER_PORT) -> Any:
        """The answer's document; None for an empty one. Raises OSError, urllib.error.HTTPError among them."""
        url = f"https://{server.host.address}:{port}{path}"
        token = (self.servers[0].data / "admin.token").read_text().strip()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        data = json.dumps(body).encode() if body is not None else None
        context = ssl.create_default_context(cafile=str(self.servers[0].data / "ca.pem"))
        request = urllib.request.Request(url, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=ANSWER_WITHIN_S, context=context) as answer:
            text = answer.read()
            return json.loads(text) if text else None

    def answers(self, server: Process) -> bool:
        try:
            return bool(self.call(server, "GET", "/v1/cluster"))
        except (OSError, ValueError):
            return False

    def ready_nodes(self) -> int:
        return list(self.node_states().values()).count("ready")

    def node_states(self) -> dict[str, str]:
        """Name → state; nothing while nobody answers."""
        for server in self.servers:
            try:
                return {node["name"]: node["state"] for node in self.call(server, "GET", "/v1/nodes")["nodes"]}
            except (OSError, ValueError):
                continue
        return {}

    def logs(self) -> str:
        return "\n".join(f"{one.host.name}: {one.said()[-1500:]}" for one in (*self.servers, *self.agents, self.spare))

    # What breaks it

    def break_things(self, things: list[Any], until: float) -> None:
        """One of these at a time, for a while."""
        chance = self.chance()
        while time.monotonic() < until and not self.over.is_set():
            if self._calm.is_set() and things is not self.agents:
                self.over.wait(PAUSE_S[0])
                continue
            thing = chance.choice(things)
            kind = chance.choice(["kill", "stop", "cut_off", "cut_incoming", "unplug"])
            for_s = chance.uniform(*TROUBLE_S)
            self.done.append(f"{time.monotonic():.1f} {kind} {thing.host.name} for {for_s:.1f} s")
            with self._broken(thing, kind):
                self.over.wait(for_s)
            self.over.wait(chance.uniform(*PAUSE_S))

    @contextmanager
    def _broken(self, thing: Any, kind: str) -> Iterator[None]:
        if kind == "kill":
            thing.kill()
            yield
            thing.start()
        elif kind == "stop":
            thing.process.send_signal(signal.SIGSTOP)
            yield
            thing.process.send_signal(signal.SIGCONT)
        else:
            getattr(thing.host, kind)()
            yield
            thing.host.mend()

    def fail_power(self, until: float) -> None:
        """The spare's, again and again; until it has been given up, and a while."""
        chance = self.chance()
        while not self.over.wait(chance.uniform(*POWER_FAILS_AFTER_S)) and time.monotonic() < until:
            from_ms = utc_ms()
            self.spare.host.lose()
            self.spare.lose_power()
            killed_ms = utc_ms()
            began = time.monotonic()
            # Each new leader counts a node's silence anew, and none leads long enough while they are broken.
            self.over.wait(chance.uniform(*IN_TROUBLE_S))
            self._calm.set()
            wait_until(lambda: self.node_states().get(SPARE) == "gone", "it is given up", GIVEN_UP_WITHIN_S)
            self._calm.clear()
            self.over.wait(chance.uniform(0, 5))
            self.spare.host.mend()
            until_ms = utc_ms()
            self.spare.start()
            failure = PowerFailure(node=SPARE, from_ms=from_ms, killed_ms=killed_ms, until_ms=until_ms)
            self.power_failures.append(failure)
            self.done.append(f"{began:.1f} no power at {SPARE} for {time.monotonic() - began:.1f} s")
            self.over.wait(chance.uniform(*POWER_LASTS_S) if time.monotonic() < until else 0)

    def run(self, seconds: float, workloads: Sequence[Workload]) -> None:
        """Breaks things for so long, then checks. Raises AssertionError."""
        until = time.monotonic() + seconds
        breakers = [
            *(Thread(self.break_things, things, until) for things in (self.etcds, self.servers, self.agents)),
            Thread(self.fail_power, until),
        ]
        others = [Thread(work) for workload in workloads for work in workload.meanwhile()]
        for thread in (*breakers, *others):
            thread.start()
        for thread in breakers:
            thread.join()
        healed = time.monotonic()
        self.over.set()
        for thread in others:
            thread.join()
        failed = [thread.error for thread in (*breakers, *others) if thread.error is not None]
        assert not failed, failed
        self.until(lambda: self.ready_nodes() == NODES, "all nodes are ready")
        for workload in workloads:
            workload.check()
        print(f"checked {time.monotonic() - healed:.1f} s after healing; {len(self.done)} troubles")

    def until(self, condition: Callable[[], Any], what: str, deadline_s: float = CONVERGED_WITHIN_S) -> Any:
        """Waits for a condition that may ask servers which do not answer."""

        def quietly() -> Any:
            try:
                return condition()
            except (OSError, ValueError):
                return None

        return wait_until(quietly, lambda: f"{what}; {self.logs()}", deadline_s)


class Thread(threading.Thread):
    """Keeps what its work has raised."""

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._arguments = arguments
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._work(*self._arguments)
        except BaseException as error:
            self.error = error

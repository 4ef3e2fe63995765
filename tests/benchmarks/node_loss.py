"""A host dies; how long until all that ran on it runs elsewhere? Orlop beside SwarmKit, with the defaults of both, on
the same three hosts, in turns. Orlop is asked in two ways: for an app of Marathon's, and, as one would ask an engine,
for containers of its pool that may move.

Each host is a real Docker Engine in a network of its own, a worker of the Swarm and a node of Orlop; SwarmKit's manager
is the engine of the first, and Orlop's server a process beside them. The last host dies as one does whose power fails:
its network is gone at once, so that nobody hears its processes end. What counts is what the engines that are left say:
that as many containers run there as are wanted in all.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any, Final, Protocol
from urllib.parse import quote

from engines import Engine, Lane, missing
from hosts import Host, Process, RemoteCluster
from running import wait_until

from .docker_pool import Client, share_image
from .figures import Figure
from .services import DEADLINE_S
from .swarmkit import SwarmKit

__all__ = ["missing", "run"]

HOSTS: Final = 3
TASKS: Final = 12
ROUNDS: Final = 3
WITHIN_S: Final = 12.0
POLL_S: Final = 0.05
IMAGE: Final = "busybox:latest"
COMMAND: Final = "trap 'exit 0' TERM; sleep 1000 & wait"
SERVER_NUMBER: Final = 100
LABEL: Final = "bench"
_OURS: Final = quote(f'{{"label": ["{LABEL}"]}}')


class Orchestrator(Protocol):
    """What is measured."""

    @property
    def label(self) -> str:
        """Of all its containers of the service."""

    def ready(self) -> bool:
        """Do all hosts take part?"""

    def deploy(self, count: int) -> None:
        """Orders the service, of so many containers."""

    def remove(self) -> None:
        """Takes it back."""


class _Hosts:
    """For Orlop's server, a host of its own."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    def host(self, name: str) -> Host:
        return Host(self._lane, name, SERVER_NUMBER)


class Orlop:
    """A server, and an agent in the network of each engine."""

    label = "orlop.task"

    def __init__(self, lane: Lane, engines: list[Engine]) -> None:
        socket = lane.folder / "pool.sock"
        self.docker_url = f"unix://{socket}"
        listen = f'["{self.docker_url}"]'
        hosts: Any = _Hosts(lane)  # all that it needs of `Hosts`
        self.cluster = RemoteCluster(hosts, ORLOP_PLUGINS__SWARM__LISTEN=listen)
        self.cluster.start_server()
        for engine in engines:
            environment = {"ORLOP_AGENT__NAME": engine.name, "ORLOP_AGENT__DOCKER": engine.url}
            agent = Process(engine, "agent", environment, "agent", "--join", self.cluster.url)  # type: ignore[arg-type]
            self.cluster.agents[engine.name] = agent
            agent.start("--token", self.cluster.token())

    def ready(self) -> bool:
        nodes = self.cluster.get("/v1/nodes")["nodes"]
        return len([one for one in nodes if one["state"] == "ready" and "docker" in one["runtimes"]]) == HOSTS

    def deploy(self, count: int) -> None:
        members = {"cpus": 0.001, "mem": 16, "container": {"type": "DOCKER", "docker": {"image": IMAGE}}}
        app = {"id": "/bench", "cmd": COMMAND, "instances": count, "constraints": [["hostname", "GROUP_BY"]]}
        self.cluster.call("POST", "/v2/apps", app | members, base=self.cluster.marathon)

    def remove(self) -> None:
        self.cluster.call("DELETE", "/v2/apps/bench?force=true", base=self.cluster.marathon)

    def close(self) -> None:
        self.cluster.close()


class Pool:
    """The same Orlop, as its Docker clients see it."""

    label = "orlop.task"

    def __init__(self, orlop: Orlop) -> None:
        self.ready = orlop.ready
        self._url = orlop.docker_url

    def deploy(self, count: int) -> None:
        command = ["sh", "-c", COMMAND]
        body = {"Image": IMAGE, "Cmd": command, "Labels": {LABEL: ""}, "Env": ["reschedule:on-node-failure"]}
        with contextlib.closing(Client(self._url)) as client:
            for _ in range(count):
                client.call("POST", f"/containers/{client.create(body)}/start")

    def remove(self) -> None:
        with contextlib.closing(Client(self._url)) as client:
            for row in client.call("GET", f"/containers/json?all=1&filters={_OURS}"):
                client.remove(row["Id"])


class Datacenter:
    """The hosts, and all of what runs on them."""

    def __init__(self, lane: Lane) -> None:
        self.engines = [lane.engine(f"host{number}") for number in range(HOSTS)]
        share_image(self.engines[0], self.engines[1:])
        self._clients = [engine.client() for engine in self.engines]
        self.orlop = Orlop(lane, self.engines)
        self.pool = Pool(self.orlop)
        self.swarm = SwarmKit(self.engines, {"Image": IMAGE, "Command": ["sh", "-c", COMMAND]})
        self.wait_ready()

    def wait_ready(self) -> None:
        for one in (self.orlop, self.swarm):
            wait_until(one.ready, f"all hosts take part in {type(one).__name__}", DEADLINE_S)

    def running(self, label: str, engines: slice = slice(None)) -> list[int]:
        """How many containers with this label run on each."""
        return [len(client.containers(filters={"label": label})) for client in self._clients[engines]]

    def seconds_until_elsewhere(self, of: Orchestrator) -> float:
        """From the death of the last host on. All is as before afterwards."""
        name = type(of).__name__
        of.deploy(TASKS)
        share = TASKS // HOSTS
        wait_until(lambda: self.running(of.label) == [share] * HOSTS, f"{name}: all run, evenly spread", DEADLINE_S)
        *_, victim = self.engines
        began = time.perf_counter()
        victim.die()
        others = slice(HOSTS - 1)
        while sum(self.running(of.label, others)) < TASKS:
            assert time.perf_counter() - began < DEADLINE_S, f"{name}: not all run elsewhere within {DEADLINE_S:g} s"
            time.sleep(POLL_S)
        took_s = time.perf_counter() - began
        victim.revive()
        of.remove()
        self.orlop.cluster.agents[victim.name].start()
        wait_until(lambda: not sum(self.running(of.label)), f"{name}: all are removed", DEADLINE_S)
        self.wait_ready()
        return took_s

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.swarm.close()
        self.orlop.close()


@contextlib.contextmanager
def three_hosts() -> Iterator[Datacenter]:
    """They are gone afterwards, with all that runs on them."""
    lane = Lane()
    try:
        with contextlib.ExitStack() as stack:
            hosts = Datacenter(lane)
            stack.callback(hosts.close)
            try:
                yield hosts
            except BaseException:
                print(f"the end of the server's log:\n{hosts.orlop.cluster.server.said()[-3000:]}", file=sys.stderr)
                raise
    finally:
        lane.close()


def run() -> Iterator[Figure]:
    """All figures of this module."""
    found: dict[str, list[float]] = {"Orlop, an app": [], "Orlop, its pool": [], "SwarmKit": []}
    with three_hosts() as hosts:
        orchestrators: tuple[Orchestrator, ...] = (hosts.orlop, hosts.pool, hosts.swarm)
        turns = list(zip(found.values(), orchestrators, strict=True))
        for attempt in range(ROUNDS):
            for taken, of in turns if attempt % 2 == 0 else reversed(turns):
                taken.append(hosts.seconds_until_elsewhere(of))
    name = f"a host of {HOSTS} dies, {TASKS} containers"
    *orlops, (peer, theirs) = found.items()
    for way, mine in orlops:
        yield Figure(f"{name}: {way} runs all elsewhere, median", statistics.median(mine), "s")
        yield Figure(f"{name}: {way}, the slowest of {ROUNDS}", max(mine), "s", at_most=WITHIN_S)
    yield Figure(f"{name}: {peer} runs all elsewhere, median", statistics.median(theirs), "s")
    yield Figure(f"{name}: {peer}, the fastest of {ROUNDS}", min(theirs), "s")
    for way, mine in orlops:
        ratio = statistics.median(own / other for own, other in zip(mine, theirs, strict=True))
        yield Figure(f"{name}: {way} over {peer}, median of the rounds", ratio, "x", at_most=1)

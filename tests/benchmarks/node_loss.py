"""A host dies; how long until all that ran on it runs elsewhere? Orlop beside SwarmKit, with the defaults of both, on
the same three hosts, in turns. In Orlop's turns containers of the Docker API that want to be moved lose the same host
as an app's tasks, which shows what is theirs beside the kernel's finding out.

Each host is a real Docker Engine in a network of its own, a worker of the Swarm and a node of Orlop; SwarmKit's manager
is the engine of the first, and Orlop's server a process beside them. The last host dies as one does whose power fails:
its network is gone at once, so that nobody hears its processes end. What counts is what the engines that are left say:
that as many containers run there as are wanted in all.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import docker
from engines import Engine, Lane, missing
from hosts import Host, Process, RemoteCluster
from running import wait_until

from .docker_pool import Client, share_image
from .figures import Figure
from .services import DEADLINE_S

__all__ = ["missing", "run"]

HOSTS: Final = 3
TASKS: Final = 12
ROUNDS: Final = 3
WITHIN_S: Final = 12.0
POLL_S: Final = 0.05
IMAGE: Final = "busybox:latest"
COMMAND: Final = "trap 'exit 0' TERM; sleep 1000 & wait"
SERVER_NUMBER: Final = 100


class Orchestrator(Protocol):
    """What is measured. label: that all its containers of the service have."""

    label: str

    def ready(self) -> bool:
        """Do all hosts take part?"""

    def deploy(self) -> None:
        """Orders the service."""

    def remove(self) -> None:
        """Takes it back."""


class SwarmKit:
    """Of the engines themselves. The first one is the manager."""

    label = "com.docker.swarm.service.name=bench"

    def __init__(self, engines: list[Engine]) -> None:
        first, *others = engines
        self._manager = first.client()
        self._manager.init_swarm(advertise_addr=first.address, listen_addr=f"{first.address}:2377")
        token = self._manager.inspect_swarm()["JoinTokens"]["Worker"]
        for engine in others:
            with contextlib.closing(engine.client()) as client:
                client.join_swarm([f"{first.address}:2377"], token, listen_addr=f"{engine.address}:2377")

    def ready(self) -> bool:
        return [node["Status"]["State"] for node in self._manager.nodes()] == ["ready"] * HOSTS

    def deploy(self) -> None:
        container = docker.types.ContainerSpec(IMAGE, command=["sh", "-c", COMMAND])
        task = docker.types.TaskTemplate(container)
        mode = docker.types.ServiceMode("replicated", replicas=TASKS)
        self._manager.create_service(task, name="bench", mode=mode)

    def remove(self) -> None:
        self._manager.remove_service("bench")

    def close(self) -> None:
        self._manager.close()


class _Hosts:
    """For Orlop's server, a host of its own."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    def host(self, name: str) -> Host:
        return Host(self._lane, name, SERVER_NUMBER)


class Orlop:
    """A server, and an agent in the network of each engine. docker: the address of its Docker API."""

    label = "bench=app"

    def __init__(self, lane: Lane, engines: list[Engine]) -> None:
        self.docker = f"unix://{lane.folder}/pool.sock"
        listening = {"ORLOP_PLUGINS__SWARM__LISTEN": json.dumps([self.docker])}
        self.cluster = RemoteCluster(_Hosts(lane), **listening)  # type: ignore[arg-type]  # all that it needs of `Hosts`
        self.cluster.start_server()
        for engine in engines:
            environment = {"ORLOP_AGENT__NAME": engine.name, "ORLOP_AGENT__DOCKER": engine.url}
            agent = Process(engine, "agent", environment, "agent", "--join", self.cluster.url)  # type: ignore[arg-type]
            self.cluster.agents[engine.name] = agent
            agent.start("--token", self.cluster.token())

    def ready(self) -> bool:
        nodes = self.cluster.get("/v1/nodes")["nodes"]
        return len([one for one in nodes if one["state"] == "ready" and "docker" in one["runtimes"]]) == HOSTS

    def deploy(self) -> None:
        docker = {"image": IMAGE, "parameters": [{"key": "label", "value": self.label}]}
        members = {"cpus": 0.001, "mem": 16, "container": {"type": "DOCKER", "docker": docker}}
        app = {"id": "/bench", "cmd": COMMAND, "instances": TASKS, "constraints": [["hostname", "GROUP_BY"]]}
        self.cluster.call("POST", "/v2/apps", app | members, base=self.cluster.marathon)

    def remove(self) -> None:
        self.cluster.call("DELETE", "/v2/apps/bench?force=true", base=self.cluster.marathon)

    def close(self) -> None:
        self.cluster.close()


class PoolOfOrlop:
    """Containers of the Docker API of the same cluster."""

    label = "bench=pool"

    def __init__(self, orlop: Orlop) -> None:
        self._orlop = orlop
        self._made: list[str] = []

    def ready(self) -> bool:
        return self._orlop.ready()

    def deploy(self) -> None:
        key, _, value = self.label.partition("=")
        labels = {key: value, "com.docker.swarm.reschedule-policies": '["on-node-failure"]'}
        with contextlib.closing(Client(self._orlop.docker)) as client:
            for number in range(TASKS):
                body = {"Image": IMAGE, "Cmd": ["sh", "-c", COMMAND], "Labels": labels}
                client.call("POST", f"/containers/create?name=bench-{number}", body)
                self._made.append(f"bench-{number}")
                client.call("POST", f"/containers/bench-{number}/start")

    def remove(self) -> None:
        with contextlib.closing(Client(self._orlop.docker)) as client:
            while self._made:
                client.remove(self._made.pop())


class Datacenter:
    """The hosts, and both of what runs on them."""

    def __init__(self, lane: Lane) -> None:
        self.engines = [lane.engine(f"host{number}") for number in range(HOSTS)]
        share_image(self.engines[0], self.engines[1:])
        self._clients = [engine.client() for engine in self.engines]
        self.orlop = Orlop(lane, self.engines)
        self.pool = PoolOfOrlop(self.orlop)
        self.swarm = SwarmKit(self.engines)
        self.wait_ready()

    def wait_ready(self) -> None:
        for one in (self.orlop, self.swarm):
            wait_until(one.ready, f"all hosts take part in {type(one).__name__}", DEADLINE_S)

    def running(self, label: str, engines: slice = slice(None)) -> list[int]:
        """How many containers with this label run on each."""
        return [len(client.containers(filters={"label": label})) for client in self._clients[engines]]

    def seconds_until_elsewhere(self, *several: Orchestrator) -> list[float]:
        """From the death of the last host on, for each of them. All is as before afterwards."""
        share = TASKS // HOSTS
        for one in several:
            one.deploy()
            spread = f"{type(one).__name__}: all run, evenly spread"
            wait_until(lambda one=one: self.running(one.label) == [share] * HOSTS, spread, DEADLINE_S)
        *_, victim = self.engines
        began = time.perf_counter()
        victim.die()
        others = slice(HOSTS - 1)
        took_s: dict[Orchestrator, float] = {}
        while len(took_s) < len(several):
            for one in several:
                if one not in took_s and sum(self.running(one.label, others)) >= TASKS:
                    took_s[one] = time.perf_counter() - began
            assert time.perf_counter() - began < DEADLINE_S, f"not all run elsewhere within {DEADLINE_S:g} s: {took_s}"
            time.sleep(POLL_S)
        victim.revive()
        for one in several:
            one.remove()
        self.orlop.cluster.agents[victim.name].start()
        for one in several:
            removed = f"{type(one).__name__}: all are removed"
            wait_until(lambda one=one: not sum(self.running(one.label)), removed, DEADLINE_S)
        self.wait_ready()
        return [took_s[one] for one in several]

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
    mine: list[float] = []
    pools: list[float] = []
    theirs: list[float] = []

    def own(hosts: Datacenter) -> None:
        app_s, pool_s = hosts.seconds_until_elsewhere(hosts.orlop, hosts.pool)
        mine.append(app_s)
        pools.append(pool_s)

    with three_hosts() as hosts:
        for attempt in range(ROUNDS):
            turns: list[Callable[[], None]] = [
                lambda: own(hosts),
                lambda: theirs.extend(hosts.seconds_until_elsewhere(hosts.swarm)),
            ]
            for measure in turns if attempt % 2 == 0 else reversed(turns):
                measure()
    name = f"a host of {HOSTS} dies, {TASKS} containers"
    yield Figure(f"{name}: Orlop runs all elsewhere, median", statistics.median(mine), "s")
    yield Figure(f"{name}: Orlop, the slowest of {ROUNDS}", max(mine), "s", at_most=WITHIN_S)
    yield Figure(f"{name}: SwarmKit runs all elsewhere, median", statistics.median(theirs), "s")
    yield Figure(f"{name}: SwarmKit, the fastest of {ROUNDS}", min(theirs), "s")
    ratio = statistics.median(own / peer for own, peer in zip(mine, theirs, strict=True))
    yield Figure(f"{name}: Orlop over SwarmKit, median of the rounds", ratio, "x")
    moved = f"{name} of the Docker API that want to be moved, beside those"
    yield Figure(f"{moved}: all run elsewhere, median", statistics.median(pools), "s")
    yield Figure(f"{moved}: the slowest of {ROUNDS}", max(pools), "s", at_most=WITHIN_S)
    later = statistics.median(pool - app for pool, app in zip(pools, mine, strict=True))
    yield Figure(f"{moved}: later than the app's tasks, median of the rounds", later, "s")

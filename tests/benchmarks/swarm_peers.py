"""The pool beside SwarmKit on the same two engines, in turns, so that both meet the same load.

The engines' own API is what neither can be quicker than; an app of Marathon's is asked for as a service of SwarmKit's
is, so many at once by one request. Two times are taken of each: until its API says that all run, and until the engines
have started the last one, by their own clocks. SwarmKit tells of its tasks late, so the second is the fairer to it.
Containers have the host's network, which all ways can give them.

A node is lost as when its Orlop and its engine are killed: its containers go on, and nobody can tell of them.
"""

from __future__ import annotations

import contextlib
import queue
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import attrs
from engines import Engine, Lane, missing
from running import wait_until

from .containers import Starts
from .docker_pool import Client, Pool, running_pool, share_image
from .figures import Figure
from .processes import cpu_s, memory_mb
from .services import DEADLINE_S, tasks_running
from .swarm import many_s, remove_all
from .swarmkit import SwarmKit

__all__ = ["missing", "run"]

NETWORK: Final = "host"
LABEL: Final = "bench"
IMAGE: Final = "busybox:latest"
BODY: Final = {
    "Image": IMAGE,
    "Cmd": ["sleep", "1000"],
    "Labels": {LABEL: ""},
    "Env": ["reschedule:on-node-failure"],
    "HostConfig": {"NetworkMode": NETWORK},
}
SERVICE: Final = {"Image": IMAGE, "Command": ["sleep", "1000"], "Labels": {LABEL: ""}, "StopSignal": "SIGKILL"}
APP: Final[dict[str, Any]] = {
    "id": "/bench",
    "args": ["sleep", "1000"],
    "cpus": 0.001,
    "mem": 8,
    "container": {
        "type": "DOCKER",
        "docker": {"image": IMAGE, "parameters": [{"key": "label", "value": f"{LABEL}="}]},
    },
    "networks": [{"mode": NETWORK}],
    "constraints": [["hostname", "GROUP_BY"]],
}
SWARMKIT: Final = "SwarmKit"
ORLOPS: Final = ("pool", "Marathon")
MEASURES: Final = ("started", "said")
POLL_S: Final = 0.02
SETTLE_S: Final = 3.0


@attrs.frozen
class Sizes:
    """lost: containers on each of the two nodes when one is lost. idle_s: how long processor time is looked at."""

    ones: int = 10
    many: int = 50
    many_rounds: int = 3
    lost: int = 5
    lost_rounds: int = 3
    idle_s: float = 15.0


SMALL: Final = Sizes(ones=1, many=6, many_rounds=1, lost=1, lost_rounds=1, idle_s=1.0)


@attrs.frozen
class Took:
    """Seconds from the request: until it is said that all run, and until the engines have started the last one."""

    said: float
    started: float


@attrs.frozen
class Way:
    """order: of so many containers; returns when it is said that they run. take_back: returns when they are gone."""

    order: Callable[[int], None]
    take_back: Callable[[], None]


class Fleet:
    """The engines, and what drives them."""

    def __init__(self, engines: Sequence[Engine], swarm: SwarmKit, pool: Pool) -> None:
        self.engines = list(engines)
        self.swarm = swarm
        self.pool = pool
        self._seen: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._starts = [Starts(engine, LABEL, self._seen) for engine in engines]

    def took(self, way: Way, count: int) -> Took:
        """Of so many, which are removed again."""
        self._starts[0].forget()
        began_ns = time.time_ns()
        way.order(count)
        said_ns = time.time_ns()
        started_ns = max(int(self._starts[0].next("start")["timeNano"]) for _ in range(count))
        way.take_back()
        return Took(said=(said_ns - began_ns) / 1e9, started=(started_ns - began_ns) / 1e9)

    def by_engines(self, count: int) -> None:
        """Without a pool, by some workers at once."""
        many_s([engine.url for engine in self.engines], BODY, count)

    def by_pool(self, count: int) -> None:
        """By as many workers."""
        many_s([self.pool.url], BODY, count)

    def by_swarm(self, count: int) -> None:
        self.swarm.deploy(count)
        _wait(lambda: self.swarm.running() == count, f"{count} of SwarmKit's tasks run")

    def by_marathon(self, count: int) -> None:
        self.pool.orlop.call("POST", "/v2/apps", APP | {"instances": count})
        _wait(lambda: tasks_running(self.pool.orlop, APP["id"]) == count, f"{count} of Marathon's instances run")

    def ways(self) -> dict[str, Way]:
        return {
            "pool": Way(self.by_pool, lambda: remove_all(self.pool, self.engines)),
            "Marathon": Way(self.by_marathon, self.delete_app),
            SWARMKIT: Way(self.by_swarm, self.delete_service),
        }

    def seconds_until_elsewhere(self, way: Way, count: int) -> float:
        """From the death of the second node on, when each of the two has so many. All is as before afterwards."""
        way.order(2 * count)
        clients = [Client(engine.url) for engine in self.engines]
        _wait(lambda: [_running(client) for client in clients] == [count, count], "the containers are spread evenly")
        _, victim = self.engines
        began = time.perf_counter()
        self.pool.kill_agent(1)
        victim.kill()
        _wait(lambda: _running(clients[0]) == 2 * count, "all run on the node that is left")
        took_s = time.perf_counter() - began
        for client in clients:
            client.close()
        victim.start()
        self.pool.start_agent(1)
        self.wait_ready()
        way.take_back()
        return took_s

    def clear(self) -> None:
        """Removes what is on the engines, and what their orchestrators keep of it."""
        for engine in self.engines:
            engine.clear()

    def delete_app(self) -> None:
        orlop = self.pool.orlop
        orlop.wait_deployed(DEADLINE_S)
        orlop.call("DELETE", f"/v2/apps{APP['id']}")
        orlop.wait_deployed(DEADLINE_S)
        self.clear()

    def delete_service(self) -> None:
        self.swarm.remove()
        _wait(self.swarm.gone, "SwarmKit's tasks are gone")
        self.clear()

    def wait_ready(self) -> None:
        self.pool.wait_joined()
        wait_until(self.swarm.ready, "all engines take part in SwarmKit", DEADLINE_S)

    def close(self) -> None:
        for starts in self._starts:
            starts.close()


def _running(client: Client) -> int:
    """How many containers run on this engine."""
    return len(client.call("GET", "/containers/json"))


def _wait(condition: Callable[[], bool], what: str) -> None:
    """As `wait_until`, and asks less often."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(POLL_S)


def in_turns(names: Sequence[str], attempt: int) -> Sequence[str]:
    """Who is first changes."""
    return names if attempt % 2 else names[::-1]


def _containers(count: int) -> str:
    return f"{count} containers" if count > 1 else "one container"


def start_figures(fleet: Fleet, count: int, rounds: int) -> Iterator[Figure]:
    """Orlop's ways over SwarmKit. The first round warms up."""
    ways = {"engines' own API": Way(fleet.by_engines, fleet.clear), **fleet.ways()}
    found: dict[str, list[Took]] = {name: [] for name in ways}
    for attempt in range(rounds + 1):
        for name in in_turns(list(ways), attempt):
            took = fleet.took(ways[name], count)
            if attempt:
                found[name].append(took)
    what = _containers(count)
    for name, taken in found.items():
        for measure in MEASURES:
            took_ms = 1000 * statistics.median(getattr(one, measure) for one in taken)
            yield Figure(f"{what}: {name}, {measure}, median", took_ms, "ms")
    for name in ORLOPS:
        for measure in MEASURES:
            pairs = zip(found[name], found[SWARMKIT], strict=True)
            ratio = statistics.median(getattr(mine, measure) / getattr(theirs, measure) for mine, theirs in pairs)
            title = f"{what}: {name} over {SWARMKIT}, {measure}, median of the rounds"
            yield Figure(title, ratio, "x", at_most=1)


def lost_figures(fleet: Fleet, sizes: Sizes) -> Iterator[Figure]:
    ways = fleet.ways()
    found: dict[str, list[float]] = {name: [] for name in ways}
    for attempt in range(sizes.lost_rounds):
        for name in in_turns(list(ways), attempt):
            found[name].append(fleet.seconds_until_elsewhere(ways[name], sizes.lost))
    what = f"a node's agent and engine are killed, {_containers(sizes.lost)}"
    for name, taken in found.items():
        yield Figure(f"{what}: {name} runs all elsewhere, median", statistics.median(taken), "s")
    for name in ORLOPS:
        ratio = statistics.median(mine / theirs for mine, theirs in zip(found[name], found[SWARMKIT], strict=True))
        yield Figure(f"{what}: {name} over {SWARMKIT}, median of the rounds", ratio, "x", at_most=1)


@attrs.frozen
class Idle:
    """mb: PSS. percent: of a core."""

    mb: float
    percent: float


def idle(pids: Sequence[int], seconds: float) -> Idle:
    time.sleep(SETTLE_S)
    used_s, began = cpu_s(pids), time.perf_counter()
    time.sleep(seconds)
    return Idle(memory_mb(pids, "Pss"), 100 * (cpu_s(pids) - used_s) / (time.perf_counter() - began))


def idle_figures(name: str, found: Idle) -> Iterator[Figure]:
    yield Figure(f"idle: {name}: PSS", found.mb, "MB")
    yield Figure(f"idle: {name}: processor", found.percent, "% of a core")


def run(sizes: Sizes = Sizes()) -> Iterator[Figure]:
    """All figures of this module."""
    lane = Lane()
    try:
        engines = [lane.engine(name) for name in ("first", "second")]
        share_image(engines[0], engines[1:])
        daemons = [engine.pid for engine in engines]
        yield from idle_figures("both engines alone", idle(daemons, sizes.idle_s))
        with contextlib.closing(SwarmKit(engines, SERVICE, NETWORK)) as swarm:
            yield from idle_figures("both engines with SwarmKit", idle(daemons, sizes.idle_s))
            with running_pool([engine.url for engine in engines]) as pool:
                yield from idle_figures("both engines with SwarmKit and Orlop", idle(daemons, sizes.idle_s))
                yield from idle_figures("Orlop's server and its second agent", idle(pool.pids(), sizes.idle_s))
                with contextlib.closing(Fleet(engines, swarm, pool)) as fleet:
                    fleet.wait_ready()
                    yield from start_figures(fleet, 1, sizes.ones)
                    yield from start_figures(fleet, sizes.many, sizes.many_rounds)
                    yield from lost_figures(fleet, sizes)
    finally:
        lane.close()

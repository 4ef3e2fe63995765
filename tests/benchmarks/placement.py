"""Placement by Swarm's rules alone: 1,000 nodes with 30,000 containers, one scheduling after the other.

What is measured is a whole step of the kernel, as for a container that a client makes: an ask is read, its task made,
placed by filters and scorers, and committed to the next state, or rejected and explained. Garbage is collected as in a
server, and counted to the scheduling that it would hold up. Docker's own test of 2015, on as many nodes: p50 230 ms,
p99 400 ms. What each kind of ask costs the first time after a server has begun to lead stands apart.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs

from orlop.framework import Docker, Request, Resources, spec_id
from orlop.kernel.events import FrameworkActions
from orlop.kernel.filters import kernel_filters, kernel_scorers
from orlop.kernel.kernel import Kernel
from orlop.kernel.state import State
from orlop.model.clock import Now
from orlop.processes.collecting import Collector
from orlop.testing.harness import EPOCH
from orlop_swarm.hooks import node_filters, node_scorers
from orlop_swarm.settings import Config

from .figures import Figure
from .kernel import make_state, settle

NODES: Final = 1_000
CONTAINERS: Final = 30_000
SCHEDULINGS: Final = 300

#: What the ask of each scheduling says; {} is a number of its own.
CASES: Final = {
    "nothing": (),
    "a node": ("constraint:node==node-{:05d}",),
    "not a node": ("constraint:node!=node-{:05d}",),
    "nodes by a glob": ("constraint:node==node-00*",),
    "a label, a wish": ("constraint:rack==r3", "constraint:rack==~r4"),
    "a wish for a node": ("constraint:node==~node-{:05d}",),
    "a regular expression of nodes": ("constraint:node==/^node-00[0-4].*7$/",),
    "a new regular expression of nodes each time": ("constraint:node==/^node-00[0-4].*{}$/",),
    "beside a container": ("affinity:container==c{}",),
    "not beside a container": ("affinity:container!=c{}",),
    "beside a container if possible": ("affinity:container==~c{}",),
    "beside an image": ("affinity:image==image-7",),
    "beside a label": ("affinity:service==s{}",),
    "not beside a label": ("affinity:service!=s{}",),
    "beside containers by a regular expression": ("affinity:container==/^c{}[0-9]?$/",),
}
BY_EXPRESSION: Final = frozenset({"beside containers by a regular expression"})
SMALL: Final = 100

Asking = Callable[[int], Request]


def ask(
    number: int, *expressions: str, strategy: str = "spread", needs: Resources | None = None, **body: Any
) -> Request:
    """A container of its own spec, as `docker run` makes it."""
    spec = attrs.evolve(
        Docker(
            f"image-{number % 50}:latest",
            Env=[f"NUMBER={number}", *expressions],
            Labels={"service": f"s{number % 3_000}", "com.docker.swarm.strategy": strategy},
            **body,
        ),
        resources=needs or Resources(cpus=0.1, mem="64MiB"),
    )
    return Request(key=f"c{number}", name=f"c{number}", spec_id=spec_id(spec), spec=spec)


def saying(expressions: tuple[str, ...], containers: int) -> Asking:
    return lambda number: ask(number, *(one.format(number - containers) for one in expressions))


def asking(containers: int) -> dict[str, Asking]:
    """All kinds of asks."""
    chance = random.Random(1)

    def uneven(number: int) -> Request:
        needs = Resources(cpus=chance.randint(1, 400) / 1_000, mem=f"{chance.randint(1, 200)}MiB")
        return ask(number, strategy=("spread", "binpack")[number % 2], needs=needs)

    def port(number: int) -> Request:
        bindings = {"80/tcp": [{"HostPort": str(8_000 + (number - containers) // 3)}]}
        return ask(number, HostConfig={"PortBindings": bindings})

    kinds = {name: saying(expressions, containers) for name, expressions in CASES.items()}
    kinds["binpack"] = lambda number: ask(number, strategy="binpack")
    kinds["random"] = lambda number: ask(number, strategy="random")
    kinds["cpus and memory of its own"] = uneven
    kinds["a port"] = port
    kinds["linked to a container"] = lambda number: ask(number, HostConfig={"Links": [f"c{number - containers}:x"]})
    kinds["now or never, and no such node"] = lambda number: attrs.evolve(ask(number, "constraint:node==no"), wait_ms=0)
    quick = [kind for name, kind in kinds.items() if name not in BY_EXPRESSION]
    kinds["all of these in turn, but for the regular expressions of containers"] = lambda number: quick[
        number % len(quick)
    ](number)
    return kinds


def step_of(kernel: Kernel, state: State, *asks: Request) -> State:
    return kernel.step(state, [FrameworkActions(framework="swarm", seen=0, asks=asks)], Now(2, 2), EPOCH).state


def populated(nodes: int, containers: int) -> tuple[Kernel, State]:
    """A pool that is as full as Docker's was."""
    settings = Config()
    kernel = Kernel((*kernel_filters(), *node_filters(settings)), (*kernel_scorers(), *node_scorers(settings)))
    state = make_state(kernel, nodes, runtimes=("docker",))
    for first in range(0, containers, 500):
        state = step_of(kernel, state, *map(ask, range(first, min(first + 500, containers))))
    assert sum(task.placement is not None for task in state.tasks.values()) == containers
    return kernel, state


def schedulings_ms(kernel: Kernel, state: State, containers: int, kind: Asking) -> tuple[float, list[float]]:
    """Milliseconds of the first scheduling, and of each later one in order of size."""
    asks = [kind(containers + number) for number in range(SCHEDULINGS + 1)]
    times = []
    settle()
    thresholds, collector = gc.get_threshold(), Collector()
    collector.begin()
    try:
        for one in asks:
            began = time.thread_time()
            state = step_of(kernel, state, one)
            collector.look()
            times.append((time.thread_time() - began) * 1e3)
    finally:
        gc.set_threshold(*thresholds)
    return times[0], sorted(times[1:])


def run(nodes: int = NODES) -> Iterator[Figure]:
    """All figures of this module."""
    containers = nodes * CONTAINERS // NODES
    kernel, state = populated(nodes, containers)
    slowest = 0.0
    for name, kind in asking(containers).items():
        first, times = schedulings_ms(kernel, state, containers, kind)
        slowest = max(slowest, first)
        what = f"placement: {containers:,} containers on {nodes:,} nodes, {name}"
        yield Figure(f"{what}, p50", times[len(times) // 2], "ms")
        at_most = None if name in BY_EXPRESSION else 2.0
        yield Figure(f"{what}, p99", times[len(times) * 99 // 100], "ms", at_most=at_most)
    yield Figure("placement: the longest first look, at all containers", slowest, "ms")

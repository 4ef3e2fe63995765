"""Placement by Swarm's rules alone: 1,000 nodes with 30,000 containers, one scheduling after the other.

What is measured is a whole step of the kernel: an ask is read, its task made, placed by filters and scorers, and
committed to the next state. Docker's own test of 2015, on as many nodes: p50 230 ms, p99 400 ms.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import attrs

from orlop.framework import Docker, Request, Resources, spec_id
from orlop.kernel.events import FrameworkActions
from orlop.kernel.filters import kernel_filters, kernel_scorers
from orlop.kernel.kernel import Kernel
from orlop.kernel.state import State
from orlop.model.clock import Now
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
    "a label, a wish": ("constraint:rack==r3", "constraint:rack==~r4"),
    "a regular expression of nodes": ("constraint:node==/^node-00[0-4].*7$/",),
    "a new regular expression of nodes each time": ("constraint:node==/^node-00[0-4].*{}$/",),
    "beside a container": ("affinity:container==c{}",),
    "beside an image": ("affinity:image==image-7",),
    "beside a label": ("affinity:service==s{}",),
    "not beside a label": ("affinity:service!=s{}",),
    "beside containers by a regular expression": ("affinity:container==/^c{}[0-9]?$/",),
}
BY_EXPRESSION: Final = frozenset({"beside containers by a regular expression"})
SMALL: Final = 100


def ask(number: int, *expressions: str) -> Request:
    """A container of its own spec, as `docker run` makes it."""
    spec = attrs.evolve(
        Docker(
            f"image-{number % 50}:latest",
            Env=[f"NUMBER={number}", *expressions],
            Labels={"service": f"s{number % 3_000}", "com.docker.swarm.strategy": "spread"},
        ),
        resources=Resources(cpus=0.1, mem="64MiB"),
    )
    return Request(key=f"c{number}", name=f"c{number}", spec_id=spec_id(spec), spec=spec)


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


def schedulings_ms(kernel: Kernel, state: State, containers: int, expressions: tuple[str, ...]) -> list[float]:
    """Milliseconds of each scheduling, in order of size."""
    asks = [ask(containers + number, *(one.format(number) for one in expressions)) for number in range(SCHEDULINGS)]
    times = []
    settle()
    for one in asks:
        began = time.process_time()
        state = step_of(kernel, state, one)
        times.append((time.process_time() - began) * 1e3)
    return sorted(times)


def run(nodes: int = NODES) -> Iterator[Figure]:
    """All figures of this module."""
    containers = nodes * CONTAINERS // NODES
    kernel, state = populated(nodes, containers)
    for name, expressions in CASES.items():
        times = schedulings_ms(kernel, state, containers, expressions)
        what = f"placement: {containers:,} containers on {nodes:,} nodes, {name}"
        yield Figure(f"{what}, p50", times[len(times) // 2], "ms")
        at_most = None if name in BY_EXPRESSION else 2.0
        yield Figure(f"{what}, p99", times[len(times) * 99 // 100], "ms", at_most=at_most)

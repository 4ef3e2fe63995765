"""The kernel alone, in memory: placements per second, the cost of one event, what its documents cost, and how long a
cluster of the test harness takes.

Seconds are those of the processor. The kernel waits for nothing, so on an idle machine they are the same as those of
the clock, and on a busy one they leave out what others use.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator

import attrs

from orlop.framework import Action, Ask, Framework, Process, View
from orlop.kernel import records
from orlop.kernel.assignments import assignments
from orlop.kernel.events import AgentHello, AgentStatuses, Assign, FrameworkActions
from orlop.kernel.kernel import Kernel, KernelSettings
from orlop.kernel.loading import encode, load, read_object_plainly
from orlop.kernel.state import State
from orlop.model.asks import Request, spec_id
from orlop.model.clock import Now
from orlop.model.messages import Epoch, Hello
from orlop.model.nodes import NodeInfo
from orlop.model.ports import PortSet
from orlop.model.resources import Resources
from orlop.model.tasks import Constraint, Exit, Outcome, PortRequest, Spec, Status, TaskState
from orlop.server.loading import collector_paused
from orlop.testing.harness import Cluster

from .figures import Figure

EPOCH = Epoch(1, 1)
PORTS = PortSet.parse("31000-32000")


def make_state(kernel: Kernel, nodes: int, runtimes: tuple[str, ...] = ("process",)) -> State:
    """A cluster of ready nodes in ten racks."""
    hellos = []
    for number in range(nodes):
        info = NodeInfo(
            id=f"node-{number:05d}",
            name=f"node-{number:05d}",
            address="127.0.0.1",
            resources=Resources(cpus=64, mem="256GiB"),
            ports=PORTS,
            attributes={"rack": f"r{number % 10}"},
            runtimes=runtimes,
        )
        hellos.append(AgentHello(session=f"s{number}", hello=Hello(node=info)))
    return kernel.step(State(cluster_id="bench"), hellos, Now(1, 1), EPOCH).state


def make_asks(count: int, *, different: bool, constrained: bool, ports: bool = False) -> tuple[Request, ...]:
    """Asks of one group, or each of its own."""
    asks = []
    for number in range(count):
        spec = Spec(
            runtime="process",
            payload={"command": f"sleep {number if different else 0}"},
            resources=Resources(cpus=0.1, mem="64MiB"),
            constraints=(Constraint(field="rack", operator="LIKE", value="r[0-4]"),) if constrained else (),
            ports=(PortRequest(),) if ports else (),
        )
        group = f"g{number}" if different else "g"
        asks.append(Request(key=f"k{number}", spec_id=spec_id(spec), spec=spec, group=group))
    return tuple(asks)


def settle() -> None:
    """What was made for the measurement is kept out of the collections that happen during it."""
    gc.collect()
    gc.freeze()


def placements_per_second(nodes: int, count: int, *, different: bool, constrained: bool) -> float:
    """Asks handled and placed in one step, per second of the step; the best of three."""
    kernel = Kernel(settings=KernelSettings())
    state = make_state(kernel, nodes)
    asks = make_asks(count, different=different, constrained=constrained)
    best = 0.0
    for _ in range(3):
        settle()
        began = time.process_time()
        step = kernel.step(state, [FrameworkActions(framework="f", seen=0, asks=asks)], Now(2, 2), EPOCH)
        took = time.process_time() - began
        placed = sum(1 for task in step.state.tasks.values() if task.placement is not None)
        assert placed == count, f"{placed} of {count} placed"
        best = max(best, count / took)
    gc.unfreeze()
    return best


def status_cost_us(tasks: int) -> float:
    """One status of one task in a cluster that has so many: microseconds per event; the best of three."""
    kernel = Kernel()
    base = make_state(kernel, 100)
    asks = make_asks(tasks, different=False, constrained=False)
    base = kernel.step(base, [FrameworkActions(framework="f", seen=0, asks=asks)], Now(2, 2), EPOCH).state
    chosen = [task for task in base.tasks.values() if task.placement is not None][:500]
    best = float("inf")
    for _ in range(3):
        state = base
        settle()
        began = time.process_time()
        for task in chosen:
            status = Status(task=task.id, state=TaskState.RUNNING, incarnation=1, sequence=1)
            event = AgentStatuses(session="s", node=task.node or "", statuses=(status,))
            state = kernel.step(state, [event], Now(3, 3), EPOCH).state
        best = min(best, (time.process_time() - began) / len(chosen) * 1e6)
        changed = sum(1 for task in chosen if state.tasks[task.id].state is TaskState.RUNNING)
        assert changed == len(chosen), f"{changed} of {len(chosen)} statuses counted"
    gc.unfreeze()
    return best


def ask_cost_us(tasks: int) -> float:
    """One more ask of a group that has so many tasks: microseconds per event."""
    kernel = Kernel()
    asks = make_asks(tasks, different=False, constrained=False)
    state = kernel.step(make_state(kernel, 1_000), [asked(asks)], Now(2, 2), EPOCH).state
    events = [asked((attrs.evolve(asks[0], key=f"more-{number}"),)) for number in range(100)]
    return steps_cost_us(kernel, state, events)


def end_cost_us(waiting: int, *, different: bool) -> float:
    """One task ends in a full cluster for which so many wait: microseconds per event, one of them placed."""
    kernel = Kernel()
    filling = [
        attrs.evolve(one, key=f"filling-{one.key}") for one in make_asks(640, different=False, constrained=False)
    ]
    state = kernel.step(make_state(kernel, 1), [asked(tuple(filling))], Now(2, 2), EPOCH).state
    ending = [task for task in state.tasks.values() if task.placement is not None][:20]
    assert len(ending) == 20
    asks = make_asks(waiting, different=different, constrained=False)
    state = kernel.step(state, [asked(asks)], Now(3, 3), EPOCH).state
    assert sum(len(members) for members in state.waiting.values()) == waiting
    end = Exit(outcome=Outcome.FINISHED, code=0)
    events = []
    for task in ending:
        status = Status(task=task.id, state=TaskState.REMOVED, incarnation=1, sequence=1, exit=end)
        events.append(AgentStatuses(session="s", node=task.node or "", statuses=(status,)))
    return steps_cost_us(kernel, state, events)


def asked(asks: tuple[Request, ...]) -> FrameworkActions:
    return FrameworkActions(framework="f", seen=0, asks=asks)


def steps_cost_us(kernel: Kernel, state: State, events: list[FrameworkActions] | list[AgentStatuses]) -> float:
    """Microseconds per event, each in a step of its own."""
    settle()
    began = time.process_time()
    for event in events:
        state = kernel.step(state, [event], Now(4, 4), EPOCH).state
    took = time.process_time() - began
    gc.unfreeze()
    return took / len(events) * 1e6


def document_costs_us(tasks: int) -> tuple[float, float, float]:
    """Per task, in microseconds: encode its document; load it, indexes included; make the message for its node."""
    kernel = Kernel()
    empty = make_state(kernel, 1_000)
    asks = make_asks(tasks, different=False, constrained=False)
    step = kernel.step(empty, [asked(asks)], Now(2, 2), EPOCH)
    state = step.state
    placed = list(state.tasks.values())
    settle()
    began = time.process_time()
    encoded = [(records.TASKS + task.id, encode(task)) for task in placed]
    encoding = time.process_time() - began
    began = time.process_time()
    messages = [assignments(effect) for effect in step.effects if isinstance(effect, Assign)]
    sending = time.process_time() - began
    assert sum(len(message.items) for message in messages) == tasks
    del messages
    others = [(records.NODES + node.id, encode(node)) for node in state.nodes()]
    others += [(records.SPECS + spec, encode(record.spec)) for spec, record in state.specs.items()]
    others.append((records.META_KEY, encode(step.puts[records.META_KEY])))
    began = time.process_time()
    with collector_paused():
        loaded = load(encoded + others, read_object_plainly)
    loading = time.process_time() - began
    gc.unfreeze()
    assert loaded is not None
    assert loaded.tasks == state.tasks
    return encoding / tasks * 1e6, loading / tasks * 1e6, sending / tasks * 1e6


class Copies(Framework):
    """As many copies as its settings say."""

    name = "copies"

    def reconcile(self, view: View) -> Iterator[Action]:
        for number in range(self.settings):
            if f"copy-{number}" not in view.live:
                yield Ask(f"copy-{number}", run=Process("sleep 1000"), needs=Resources(cpus=1, mem="64MiB"))


def harness_costs_ms(nodes: int) -> tuple[float, float, float]:
    """Milliseconds, with all checks: nodes are made; a task runs on each; one task ends and runs again."""
    settle()
    began = time.process_time()
    cluster = Cluster(Copies(nodes))
    cluster.add_nodes(nodes)
    made = time.process_time()
    cluster.settle()
    placed = time.process_time()
    running = cluster.running()
    assert len(running) == nodes
    ends = time.process_time()
    for task in running[:10]:
        cluster.end_task(task, code=1)
        cluster.settle()
    ended = time.process_time()
    assert len(cluster.running()) == nodes
    gc.unfreeze()
    return (made - began) * 1e3, (placed - made) * 1e3, (ended - ends) / 10 * 1e3


def run() -> Iterator[Figure]:
    """All figures of this module."""
    for nodes in (100, 1_000, 5_000):
        for constrained in (False, True):
            where = f"at {nodes:,} nodes{', constrained' if constrained else ''}"
            promised = nodes == 5_000
            rate = placements_per_second(nodes, 5_000 if promised else 2_000, different=False, constrained=constrained)
            yield Figure(f"kernel: identical asks {where}", rate, "placements/s", at_least=20_000 if promised else None)
            rate = placements_per_second(nodes, 1_000, different=True, constrained=constrained)
            yield Figure(f"kernel: different asks {where}", rate, "placements/s", at_least=5_000 if promised else None)
    costs = {tasks: status_cost_us(tasks) for tasks in (1_000, 10_000, 50_000)}
    for tasks, cost in costs.items():
        yield Figure(f"kernel: one status with {tasks:,} tasks", cost, "us")
    # The margin is for the noise of caches, not for growth: linear growth would give 50.
    yield Figure("kernel: one status, 50,000 tasks over 1,000", costs[50_000] / costs[1_000], "x", at_most=1.5)
    for tasks in (1_000, 10_000):
        yield Figure(f"kernel: one more ask of a group of {tasks:,} tasks, 1,000 nodes", ask_cost_us(tasks), "us")
    for different in (False, True):
        kind = "different" if different else "identical"
        cost = end_cost_us(10_000, different=different)
        yield Figure(f"kernel: one task ends, 10,000 {kind} asks wait", cost, "us")
    encoding, loading, sending = document_costs_us(100_000)
    yield Figure("kernel: encode a task document", encoding, "us")
    yield Figure("kernel: make the assignment of a task", sending, "us")
    yield Figure("kernel: load 100,000 tasks, 1,000 nodes", loading, "us/task")
    making, placing, ending = (min(costs) for costs in zip(*(harness_costs_ms(1_000) for _ in range(3)), strict=True))
    yield Figure("harness: make 1,000 nodes", making, "ms")
    yield Figure("harness: 1,000 tasks placed and running on them", placing, "ms")
    yield Figure("harness: one of them ends and runs again", ending, "ms")

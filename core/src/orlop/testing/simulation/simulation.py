"""Runs a plan on a simulated cluster, checks it, and shrinks what fails."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

import attrs

from orlop.framework import Framework
from orlop.kernel.events import DrainNode, KillTask
from orlop.kernel.state import State
from orlop.model.resources import Resources
from orlop.testing.simulation.network import End, Network
from orlop.testing.simulation.node import SimulatedNode
from orlop.testing.simulation.plan import HEALING_MS, TROUBLE_MS, Operation, Plan, Shape, make_plan
from orlop.testing.simulation.server import Reply, SimulatedServer
from orlop.testing.simulation.store import SimulatedStore
from orlop.testing.simulation.witness import Witness
from orlop.testing.simulation.world import Broken, World

CAPACITY: Final = Resources(cpus=4, mem="4GiB")
SHRINK_RUNS_MAX: Final = 300


class Workload(Protocol):
    """What runs on the cluster, and what must have come of it once all is well."""

    frameworks: Mapping[str, Callable[[], Framework]]

    def operation(self, chance: random.Random) -> Operation:
        """One of its operations, at any time: `command` with (framework, value)."""

    def answered(self, framework: str, value: Any, answer: Any, error: Exception | None) -> None:
        """What came of a command."""

    def unanswered(self, framework: str, value: Any) -> None:
        """The command's server vanished: nobody knows what came of it."""

    def check(self, state: State, running: Iterable[tuple[str, str]]) -> None:
        """After healing. running: (framework, key) of all that really runs. Raises Broken."""


@attrs.frozen
class Failure:
    """A history in which something broke, as short as it could be made. error: what was raised."""

    seed: int
    reason: str
    plan: Plan
    trace: tuple[str, ...]
    error: Exception | None = attrs.field(default=None, eq=False, repr=False)

    def __str__(self) -> str:
        operations = "\n".join(f"  {one}" for one in self.plan)
        history = "\n".join(f"  {line}" for line in self.trace)
        return f"seed {self.seed}: {self.reason}\nplan:\n{operations}\nthe end of its history:\n{history}"


class Simulation:
    """One cluster, one plan."""

    def __init__(self, seed: int, workload: Workload, plan: Plan, shape: Shape) -> None:
        self.world = World(seed)
        self.workload = workload
        self.plan = plan
        self.store = SimulatedStore(self.world)
        self.witness = Witness(self.world, self.store, CAPACITY)
        self.network = Network(self.world)
        self.servers = {
            name: SimulatedServer(self.world, name, self.store, workload.frameworks, self.witness.decided)
            for name in (f"server{number}" for number in range(shape.servers))
        }
        self.nodes = {
            name: SimulatedNode(self.world, name, CAPACITY, self._dial, self.witness)
            for name in (f"node{number}" for number in range(shape.nodes))
        }
        self._drained: set[str] = set()

    def run(self) -> str:
        """The history's digest. Raises Broken, and whatever the code under test raises."""
        starts = [server.start for server in self.servers.values()] + [node.start for node in self.nodes.values()]
        for start in starts:
            self.world.after(self.world.source("starts").randrange(300), start)
        for operation in self.plan:
            self.world.after(operation.at_ms, lambda one=operation: self._do(one))  # type: ignore[misc]
        self.world.run(TROUBLE_MS, self._check)
        self._heal()
        self.world.run(TROUBLE_MS + HEALING_MS, self._check)
        self._check_end()
        return self.world.digest()

    def _do(self, operation: Operation) -> None:
        self.world.note("plan", str(operation))
        getattr(self, f"do_{operation.what}")(*operation.arguments)

    def _check(self) -> None:
        leaders = [name for name, server in self.servers.items() if server.leads() and not server.behind_ms]
        if len(leaders) > 1:
            raise Broken(f"{' and '.join(leaders)} both believe that they lead")

    def leader(self) -> SimulatedServer | None:
        """Who leads now."""
        leading = [server for server in self.servers.values() if server.leads()]
        return min(leading, key=lambda server: server.behind_ms, default=None)

    def _dial(self, node: str) -> End | None:
        """A node looks for the leader: it asks one of the servers."""
        name = self.world.source(f"dial/{node}").choice(sorted(self.servers))
        server = self.servers[name]
        if not server.leads() or server.life is None or server.life.leading is None:
            return None
        session = self.network.connect(node, name)
        if session is None:
            return None
        server.life.leading.serve(session.server_end)
        return session.node_end

    def _heal(self) -> None:
        self.world.note("plan", "everything is healed")
        self.store.cut.clear()
        self.store.quorum, self.store.full, self.store.slow_ms, self.store.loses = True, False, 0, 0.0
        self.network.cut.clear()
        self.network.slow_ms = 0
        for server in self.servers.values():
            server.held_until_ms = self.world.now_ms
            server.start()
        for node in self.nodes.values():
            node.slow_disk_ms, node.slow_starts, node.early_deaths = 0, 0.0, 0.0
            node.start()
        for name in sorted(self._drained):
            self.world.after(20_000, lambda one=name: self._drain(one, drained=False))  # type: ignore[misc]

    def _check_end(self) -> None:
        leader = self.leader()
        if leader is None or leader.life is None or leader.life.leading is None:
            raise Broken("after healing nobody leads")
        state = leader.life.leading.pipeline.committed
        lost = sorted(set(self._identities()) - set(state.node_order))
        if lost:
            raise Broken(f"after healing the leader does not know of {', '.join(lost)}")
        running = [(one.framework, one.key) for _, one in self.witness.running.values()]
        self.workload.check(state, running)

    def _identities(self) -> list[str]:
        return [node.disk.identity for node in self.nodes.values()]

    # The workload

    def do_command(self, framework: str, value: Any) -> None:
        """A client asks whoever leads; when nobody does, or the leader vanishes, it does not know more than that."""
        leader = self.leader()
        if leader is None or leader.life is None or leader.life.leading is None:
            self.workload.answered(framework, value, None, LookupError("nobody leads"))
            return
        reply = self._reply(framework, value)
        leader.life.leading.command(framework, value, reply)

    def _reply(self, framework: str, value: Any) -> Reply:
        told: list[bool] = []

        def reply(answer: Any, error: Exception | None) -> None:
            if not told:
                told.append(True)
                self.world.note("client", f"{framework} {value}: {error or 'done'}")
                self.workload.answered(framework, value, answer, error)

        def give_up() -> None:
            if not told:
                told.append(True)
                self.workload.unanswered(framework, value)

        self.world.after(TROUBLE_MS // 2, give_up)
        return reply

    def do_kill_task(self, number: int) -> None:
        """An operator kills a task, whichever it is."""
        leader = self.leader()
        if leader is not None and leader.life is not None and leader.life.leading is not None:
            live = sorted(task.id for task in leader.life.leading.pipeline.committed.tasks.values() if task.live)
            if live:
                event = KillTask(task=live[number % len(live)], reason="operator", token="kill")  # noqa: S106
                leader.life.leading.submit(event)

    # Trouble

    def _later(self, delay_ms: int, call: Callable[[], None]) -> None:
        """The end of a trouble; after healing there is none."""
        self.world.after(delay_ms, lambda: call() if self.world.now_ms < TROUBLE_MS else None)

    def do_kill_server(self, name: str, for_ms: int) -> None:
        self.servers[name].kill()
        self._later(for_ms, self.servers[name].start)

    def do_kill_leader(self, for_ms: int) -> None:
        leader = self.leader()
        if leader is not None:
            self.do_kill_server(leader.name, for_ms)

    def do_hold_server(self, name: str, for_ms: int) -> None:
        self.servers[name].hold(self.world.now_ms + for_ms)

    def do_hold_leader(self, for_ms: int) -> None:
        leader = self.leader()
        if leader is not None:
            self.do_hold_server(leader.name, for_ms)

    def do_suspend_leader(self, for_ms: int) -> None:
        leader = self.leader()
        if leader is not None:
            leader.hold(self.world.now_ms + for_ms, clock_too=True)

    def do_cut_store(self, name: str, for_ms: int) -> None:
        self.store.cut.add(name)
        self._later(for_ms, lambda: self.store.cut.discard(name))

    def do_lose_quorum(self, for_ms: int) -> None:
        self.store.quorum = False
        self._later(for_ms, lambda: setattr(self.store, "quorum", True))

    def do_fill_store(self, for_ms: int) -> None:
        self.store.full = True
        self._later(for_ms, lambda: setattr(self.store, "full", False))

    def do_slow_store(self, slow_ms: int, for_ms: int) -> None:
        self.store.slow_ms = slow_ms
        self._later(for_ms, lambda: setattr(self.store, "slow_ms", 0))

    def do_lossy_store(self, loses: float, for_ms: int) -> None:
        self.store.loses = loses
        self._later(for_ms, lambda: setattr(self.store, "loses", 0.0))

    def do_compact(self) -> None:
        self.store.compact()

    def do_cut_way(self, node: str, server: str, direction: str, for_ms: int) -> None:
        servers = sorted(self.servers) if server == "*" else [server]
        ways = {(node, one) for one in servers if direction in ("both", "to")}
        ways |= {(one, node) for one in servers if direction in ("both", "from")}
        self.network.cut |= ways
        self._later(for_ms, lambda: self.network.cut.difference_update(ways))

    def do_slow_network(self, slow_ms: int, for_ms: int) -> None:
        self.network.slow_ms = slow_ms
        self._later(for_ms, lambda: setattr(self.network, "slow_ms", 0))

    def do_stop_agent(self, name: str, for_ms: int) -> None:
        self.nodes[name].stop(planned=True)
        self._later(for_ms, self.nodes[name].start)

    def do_kill_agent(self, name: str, for_ms: int) -> None:
        self.nodes[name].stop(planned=False)
        self._later(for_ms, self.nodes[name].start)

    def do_crash_machine(self, name: str, disk_lost: bool, for_ms: int) -> None:
        self.nodes[name].crash(disk_lost)
        self._later(for_ms, self.nodes[name].start)

    def do_restart_runtime(self, name: str, keeps_tasks: bool) -> None:
        self.nodes[name].restart_runtime(keeps_tasks)

    def do_slow_starts(self, name: str, for_ms: int) -> None:
        self.nodes[name].slow_starts = 0.7
        self._later(for_ms, lambda: setattr(self.nodes[name], "slow_starts", 0.0))

    def do_early_deaths(self, name: str, for_ms: int) -> None:
        self.nodes[name].early_deaths = 0.7
        self._later(for_ms, lambda: setattr(self.nodes[name], "early_deaths", 0.0))

    def do_slow_disk(self, name: str, for_ms: int) -> None:
        self.nodes[name].slow_disk_ms = 2_000
        self._later(for_ms, lambda: setattr(self.nodes[name], "slow_disk_ms", 0))

    def do_skew_clock(self, name: str, skew_ms: int) -> None:
        self.nodes[name].skew_ms = skew_ms

    def do_drain(self, name: str, for_ms: int) -> None:
        identity = self.nodes[name].disk.identity
        self._drained.add(identity)
        self._drain(identity, drained=True)
        self._later(for_ms, lambda: self._drain(identity, drained=False))

    def _drain(self, identity: str, *, drained: bool) -> None:
        leader = self.leader()
        if leader is not None and leader.life is not None and leader.life.leading is not None:
            leader.life.leading.submit(DrainNode(node=identity, drained=drained))


def simulate(
    seed: int,
    workload: Callable[[], Workload],
    *,
    shape: Shape | None = None,
    trouble: float = 1.0,
    shrink: bool = True,
) -> str:
    """The digest of the seed's history. Raises Broken with the shortest history found that breaks in the same way."""
    shape = shape or Shape()
    plan = make_plan(seed, shape, workload().operation, trouble)
    try:
        return Simulation(seed, workload(), plan, shape).run()
    except Exception as error:
        if not shrink:
            raise Broken(f"seed {seed}: {error}") from error
        raise Broken(str(shrunk(seed, workload, plan, shape))) from error


def shrunk(
    seed: int,
    workload: Callable[[], Workload],
    plan: Plan,
    shape: Shape,
    make: Callable[[int, Any, Plan, Shape], Simulation] = Simulation,
) -> Failure:
    """Operations are taken out for as long as something still breaks, halves first, then single ones.

    make: the simulation of a plan. Raises Broken when it does not break a second time.
    """

    def attempt(plan: Plan) -> Failure | None:
        return _try(make(seed, workload(), plan, shape))

    failure = attempt(plan)
    if failure is None:
        raise Broken(f"seed {seed} broke, and did not break again: something in it looks at more than its inputs")
    runs, size = 0, max(1, len(plan) // 2)
    while runs < SHRINK_RUNS_MAX:
        for start in range(0, len(failure.plan), size):
            shorter = failure.plan[:start] + failure.plan[start + size :]
            runs += 1
            found = attempt(shorter)
            if found is not None:
                failure = found
                break
        else:
            if size == 1:
                return failure
            size = max(1, size // 2)
    return failure


def _try(simulation: Simulation) -> Failure | None:
    try:
        simulation.run()
    except Exception as error:  # noqa: BLE001  (whatever breaks is what is looked for)
        reason = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
        return Failure(simulation.world.seed, reason, simulation.plan, tuple(simulation.world.trace), error)
    return None

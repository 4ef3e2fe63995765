"""Runs a plan on a simulated cluster, and checks it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from orlop.framework import Framework
from orlop.kernel.events import DrainNode, ForgetNode, KillTask
from orlop.kernel.invariants import check
from orlop.kernel.state import State
from orlop.model.facts import ForeignContainer
from orlop.model.messages import Assignment
from orlop.model.nodes import NodeState
from orlop.model.resources import Resources
from orlop.model.tasks import TaskState
from orlop.server import clock_watch
from orlop.testing.simulation.network import End, Network
from orlop.testing.simulation.node import SimulatedNode
from orlop.testing.simulation.plan import Operation, Plan, Shape
from orlop.testing.simulation.server import Reply, SimulatedServer
from orlop.testing.simulation.store import SimulatedStore
from orlop.testing.simulation.witness import Witness
from orlop.testing.simulation.world import Broken, World

CAPACITY: Final = Resources(cpus=4, mem="4GiB")
#: After healing, when an operator looks for machines that will not come back; more than once, for what is decided may
#: still be lost with its leader.
GIVE_UP_AFTER_MS: Final = (20_000, 30_000)
#: How often an operator forgets nodes that are gone, in one history; and how often it is looked for them.
OPERATORS_FORGET: Final = 0.4
LOOKS_FOR_GONE: Final = 3
#: A client that has heard nothing for so long asks no more.
PATIENCE_MS: Final = 30_000
#: Between two looks whether anything is under way, and how many must find nothing before time is leapt over.
LOOK_MS: Final = 250
LOOKS: Final = 2
#: How long before it does what is due comes into sight.
LEAP_LEAD_MS: Final = 200
#: A server's clock that is wrong by more than this is set right when all is healed.
CLOCK_WRONG_MS: Final = 5_000


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


class Simulation:
    """One cluster, one plan."""

    def __init__(self, seed: int, workload: Workload, plan: Plan, shape: Shape) -> None:
        self.world = World(seed, shape.begins_utc_ms)
        self.shape = shape
        self.workload = workload
        self.plan = plan
        self.store = SimulatedStore(self.world)
        self.witness = Witness(self.world, self.store, CAPACITY)
        self.network = Network(self.world)
        self.servers = {
            name: SimulatedServer(self.world, name, self.store, workload.frameworks, self.witness)
            for name in (f"server{number}" for number in range(shape.servers))
        }
        self.nodes = {
            name: SimulatedNode(self.world, name, CAPACITY, self._dial, self.witness, shape.runtime)
            for name in (f"node{number}" for number in range(shape.nodes))
        }
        self._drained: set[str] = set()
        self._forgotten: set[str] = set()
        self._troubles = 0
        self._calm_looks = 0

    def run(self) -> str:
        """The history's digest. Raises Broken, and whatever the code under test raises."""
        starts = [server.start for server in self.servers.values()] + [node.start for node in self.nodes.values()]
        for start in starts:
            self.world.after(self.world.source("starts").randrange(300), start)
        for operation in self.plan:
            self.world.at(operation.at_ms, lambda one=operation: self._do(one))  # type: ignore[misc]
        if self.shape.leaps:
            self.world.after(LOOK_MS, self._look)
        forgetting = self.world.source("forgetting")
        if forgetting.random() < OPERATORS_FORGET:
            for _ in range(LOOKS_FOR_GONE):
                self.world.at(forgetting.randrange(self.shape.trouble_ms), self._forget_gone)
        self.world.run(self.shape.trouble_ms, self._check)
        self._heal()
        self.world.run(self.shape.end_ms, self._check)
        self._check_end()
        return self.world.digest()

    def _do(self, operation: Operation) -> None:
        self.world.note("plan", str(operation))
        getattr(self, f"do_{operation.what}")(*operation.arguments)

    def _check(self) -> None:
        leaders = [name for name, server in self.servers.items() if server.leads() and not server.behind_ms]
        if len(leaders) > 1:
            raise Broken(f"{' and '.join(leaders)} both believe that they lead")

    # Leaps

    def _look(self) -> None:
        self._calm_looks = self._calm_looks + 1 if self._is_calm() else 0
        if self._calm_looks >= LOOKS:
            self._calm_looks = 0
            in_trouble = self._in_trouble()
            self.world.leap(self.shape.trouble_ms if in_trouble else self.shape.end_ms, LEAP_LEAD_MS)
        self.world.after(LOOK_MS, self._look)

    def _is_calm(self) -> bool:
        """Is nothing under way, so that until something is due there would be heartbeats only?"""
        if self._troubles or any(server.stands for server in self.servers.values()):
            return False
        if all(server.life is None for server in self.servers.values()):
            return True
        leader = self.leader()
        if leader is None or leader.life is None or leader.life.leading is None:
            return False
        leading = leader.life.leading
        heard = all(node.idle and leading.hears(node.disk.identity) for node in self.nodes.values())
        return heard and leading.idle and self._is_settled(leading.pipeline.committed)

    def _is_settled(self, state: State) -> bool:
        """Does the state say what really is, and has it given up what is no more?"""
        here = set(self._identities())
        for node in state.nodes():
            if node.state is not (NodeState.READY if node.info.id in here else NodeState.GONE):
                return False
        running = set()
        for task in state.tasks.values():
            if not task.live or task.state is TaskState.PENDING:
                continue
            if task.stopping or task.state not in (TaskState.RUNNING, TaskState.PREPARED):
                return False
            if task.state is TaskState.PREPARED:
                continue
            if task.node in here:
                running.add(task.id)
            elif not state.spec_of(task).policies.partition.keep:
                return False
        return running == self.witness.running.keys()

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
        self.store.heal()
        self.network.heal()
        for server in self.servers.values():
            server.release()
            if abs(server.skew_ms) > CLOCK_WRONG_MS:
                server.skew_ms = 0
            server.start()
        for node in self.nodes.values():
            node.heal()
        forgets = self.world.source("forgetting").random() < OPERATORS_FORGET
        for after_ms in GIVE_UP_AFTER_MS:
            self._soon(after_ms, self._forget_gone if forgets else self._give_up_lost_machines)
        for name in sorted(self._drained):
            self._soon(20_000, lambda one=name: self._drain(one, drained=False))  # type: ignore[misc]

    def _give_up_lost_machines(self) -> None:
        """An operator says of tasks that wait for a machine whose disk is lost that they need not."""
        leader = self.leader()
        if leader is None or leader.life is None or leader.life.leading is None:
            return
        here = set(self._identities())
        for task in list(leader.life.leading.pipeline.committed.tasks.values()):
            if task.live and task.placement is not None and task.placement.node not in here:
                self.world.strike("a kept task is given up by an operator")
                event = KillTask(task=task.id, reason="the machine is lost", token="kill")  # noqa: S106
                leader.life.leading.submit(event)

    def _forget_gone(self) -> None:
        """An operator believes that nodes that are gone never come back. Some do."""
        leader = self.leader()
        if leader is None or leader.life is None or leader.life.leading is None:
            return
        for node in list(leader.life.leading.pipeline.committed.nodes()):
            if node.state is NodeState.GONE:
                self.world.strike("a node is forgotten")
                self._forgotten.add(node.info.id)
                leader.life.leading.submit(ForgetNode(node=node.info.id, token="forget"))  # noqa: S106

    def _check_end(self) -> None:
        leader = self.leader()
        if leader is None or leader.life is None or leader.life.leading is None:
            raise Broken("after healing nobody leads")
        state = leader.life.leading.pipeline.committed
        check(state)
        found = {name: state.node(name) for name in self._identities()}
        lost = sorted(name for name, node in found.items() if node is None or node.state is not NodeState.READY)
        if lost:
            raise Broken(f"after healing the leader does not hear of {', '.join(lost)}")
        if not self._forgotten.isdisjoint(found):
            self.world.strike("a node is back that was forgotten")
        for node in self.nodes.values():
            if state.candidates[node.disk.identity].facts != node.facts:
                raise Broken(f"after healing the leader has wrong facts of {node.name}")
        self.witness.agrees(state)
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

        self.world.after(PATIENCE_MS, give_up)
        return reply

    def do_kill_task(self, number: int) -> None:
        """An operator kills a task, whichever it is."""
        leader = self.leader()
        if leader is not None and leader.life is not None and leader.life.leading is not None:
            live = sorted(task.id for task in leader.life.leading.pipeline.committed.tasks.values() if task.live)
            if live:
                event = KillTask(task=live[number % len(live)], reason="operator", token="kill")  # noqa: S106
                leader.life.leading.submit(event)

    def do_touch_container(self, what: str, number: int) -> None:
        """A client of an engine starts, stops or removes a container, whichever it is."""
        found = [(node, task) for _, node in sorted(self.nodes.items()) for task in sorted(node.containers())]
        if found:
            node, task = found[number % len(found)]
            assignment = node.runtime.tasks[task].assignment
            if node.runtime.touch(task, what):
                self._touched(what, assignment)

    def _touched(self, what: str, assignment: Assignment) -> None:
        """A client of an engine has done so."""

    def do_empty_node(self, name: str, within_ms: int, for_ms: int) -> None:
        """An operator drains it, and what is there is stopped after so long."""
        identity = self.nodes[name].disk.identity
        self._drained.add(identity)
        self._drain(identity, drained=True, within_ms=within_ms)
        self._later(for_ms, lambda: self._drain(identity, drained=False))

    # Trouble

    def _later(self, delay_ms: int, call: Callable[[], None]) -> None:
        """The end of a trouble; after healing there is none."""
        self._soon(delay_ms, lambda: call() if self._in_trouble() else None)

    def _soon(self, delay_ms: int, call: Callable[[], None]) -> None:
        """Something is under way until then."""
        self._troubles += 1

        def due() -> None:
            self._troubles -= 1
            call()

        self.world.after(delay_ms, due)

    def _in_trouble(self) -> bool:
        return self.world.elapsed_ms < self.shape.trouble_ms

    def _nodes(self, name: str) -> list[SimulatedNode]:
        return list(self.nodes.values()) if name == "*" else [self.nodes[name]]

    def _for(self, for_ms: int, thing: object, name: str, value: float | bool) -> None:
        """Sets an attribute, and sets it back later."""
        usual = not value if isinstance(value, bool) else type(value)(0)
        setattr(thing, name, value)
        self._later(for_ms, lambda: setattr(thing, name, usual))

    def do_kill_server(self, name: str, for_ms: int) -> None:
        self.servers[name].kill()
        self._later(for_ms, self.servers[name].start)

    def do_kill_leader(self, for_ms: int) -> None:
        leader = self.leader()
        if leader is not None:
            self.world.strike("a leader is killed")
            self.do_kill_server(leader.name, for_ms)

    def do_hold_server(self, name: str, for_ms: int) -> None:
        self.servers[name].hold(self.world.now_ms + for_ms)

    def do_hold_leader(self, for_ms: int) -> None:
        leader = self.leader()
        if leader is not None:
            self.world.strike("a leader stands still")
            self.do_hold_server(leader.name, for_ms)

    def do_suspend_leader(self, for_ms: int) -> None:
        leader = self.leader()
        if leader is not None:
            leader.hold(self.world.now_ms + for_ms, clock_too=True)

    def do_cut_store(self, name: str, for_ms: int) -> None:
        self.store.cut.add(name)
        self._later(for_ms, lambda: self.store.cut.discard(name))

    def do_lose_quorum(self, for_ms: int) -> None:
        self._for(for_ms, self.store, "quorum", False)

    def do_fill_store(self, for_ms: int) -> None:
        self._for(for_ms, self.store, "full", True)

    def do_slow_store(self, slow_ms: int, for_ms: int) -> None:
        self._for(for_ms, self.store, "slow_ms", slow_ms)

    def do_lossy_store(self, loses: float, for_ms: int) -> None:
        self._for(for_ms, self.store, "loses", loses)

    def do_compact(self) -> None:
        self.store.compact()

    def do_change_store_leader(self, for_ms: int) -> None:
        self.store.change_leader(for_ms)

    def do_cut_way(self, node: str, server: str, direction: str, for_ms: int) -> None:
        servers = sorted(self.servers) if server == "*" else [server]
        ways = {(node, one) for one in servers if direction in ("both", "to")}
        ways |= {(one, node) for one in servers if direction in ("both", "from")}
        self.network.cut |= ways
        self._later(for_ms, lambda: self.network.cut.difference_update(ways))

    def do_slow_network(self, slow_ms: int, for_ms: int) -> None:
        self._for(for_ms, self.network, "slow_ms", slow_ms)

    def do_lossy_network(self, loses: float, for_ms: int) -> None:
        self._for(for_ms, self.network, "loses", loses)

    def do_doubling_network(self, doubles: float, for_ms: int) -> None:
        self._for(for_ms, self.network, "doubles", doubles)

    def do_reordering_network(self, reorders: float, for_ms: int) -> None:
        self._for(for_ms, self.network, "reorders", reorders)

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

    def do_start_foreign(self, name: str, cpus_thousandths: int, for_ms: int) -> None:
        """Somebody uses a node's engine directly, and removes what was started, or forgets it."""
        node = self.nodes[name]
        container = f"foreign-{self.world.number()}"
        node.start_foreign(ForeignContainer(id=container, state="running", cpus_thousandths=cpus_thousandths))
        self._later(for_ms, lambda: node.remove_foreign(container))

    def do_slow_starts(self, name: str, for_ms: int) -> None:
        for node in self._nodes(name):
            self._for(for_ms, node.runtime, "slow_starts", 0.7)

    def do_early_deaths(self, name: str, for_ms: int) -> None:
        for node in self._nodes(name):
            self._for(for_ms, node.runtime, "early_deaths", 0.7)

    def do_name_conflicts(self, name: str, for_ms: int) -> None:
        for node in self._nodes(name):
            self._for(for_ms, node.runtime, "name_conflicts", 0.7)

    def do_slow_disk(self, name: str, for_ms: int) -> None:
        for node in self._nodes(name):
            self._for(for_ms, node, "slow_disk_ms", 2_000)

    def do_skew_clock(self, name: str, skew_ms: int) -> None:
        self.nodes[name].skew_ms = skew_ms

    def do_skew_server_clock(self, name: str, skew_ms: int) -> None:
        self.servers[name].skew_ms = skew_ms

    def do_stop_all_servers(self, for_ms: int) -> None:
        """For hours, by the clocks of the day. Nodes go on alone."""
        self.world.strike("all servers are down for long")
        for server in self.servers.values():
            server.kill()
            up_again_ms = self.world.elapsed_ms + for_ms
            self.world.at(up_again_ms, lambda one=server: one.start() if self._in_trouble() else None)  # type: ignore[misc]

    def do_step_server_clock(self, name: str, skew_ms: int) -> None:
        """Somebody sets it, while the server runs, so that it is wrong by so much."""
        self.world.strike("a server's clock is stepped")
        self.servers[name].skew_ms = skew_ms
        self._soon(2 * clock_watch.LOOK_MS, lambda: None)

    def do_step_leader_clock(self, skew_ms: int) -> None:
        leader = self.leader()
        if leader is not None:
            self.world.strike("a leader's clock is stepped")
            self.do_step_server_clock(leader.name, skew_ms)

    def do_drain(self, name: str, for_ms: int) -> None:
        identity = self.nodes[name].disk.identity
        self._drained.add(identity)
        self._drain(identity, drained=True)
        self._later(for_ms, lambda: self._drain(identity, drained=False))

    def _drain(self, identity: str, *, drained: bool, within_ms: int | None = None) -> None:
        leader = self.leader()
        if leader is not None and leader.life is not None and leader.life.leading is not None:
            if drained:
                self.world.strike("a node is drained")
            leader.life.leading.submit(DrainNode(node=identity, drained=drained, within_ms=within_ms))

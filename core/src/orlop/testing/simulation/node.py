"""A simulated node: the real worker, a disk, and a session with whoever leads; `runtime` is what runs its tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

import attrs

from orlop.agent import decisions
from orlop.agent.facts import FactsTelling
from orlop.agent.runtimes.interface import Phase, RuntimeEvent, Snapshot, Unavailable
from orlop.agent.task_record import TaskRecord
from orlop.agent.worker import Worker
from orlop.model.facts import ForeignContainer, NodeFacts
from orlop.model.messages import (
    Assignment,
    Assignments,
    Epoch,
    Facts,
    Goodbye,
    Heartbeat,
    Hello,
    Received,
    Refused,
    Statuses,
    Welcome,
)
from orlop.model.nodes import NodeInfo
from orlop.model.ports import PortSet
from orlop.model.resources import Resources
from orlop.model.tasks import Status
from orlop.testing.simulation import runtime as runtimes
from orlop.testing.simulation.network import End
from orlop.testing.simulation.runtime import RUNTIME, SimulatedRuntime
from orlop.testing.simulation.world import Broken, World

HEARTBEAT_MS: Final = 1_000
RECONNECT_MS: Final = 500
#: After the time of its policy, for the signal and what it takes to end.
STOPPED_WITHIN_MS: Final = 1_000


class Witness(runtimes.Witness, Protocol):
    """Who sees what really happens on nodes."""

    def assigned(self, node: str, message: Assignments) -> None: ...

    def stopped_alone(self, node: str, assignment: Assignment, alone_ms: int) -> None: ...


@attrs.define
class Disk:
    """What survives the agent, and, unless it is lost, the machine."""

    identity: str
    cluster_id: str = ""
    records: dict[str, TaskRecord] = attrs.field(factory=dict)
    epoch: Epoch | None = None


class SimulatedNode:
    """A machine. connect: gives the end of a new session with the leader, or None. runtime: its name.

    slow_disk_ms: at most so long does it take to write a record.
    """

    def __init__(
        self,
        world: World,
        name: str,
        resources: Resources,
        connect: Callable[[str], End | None],
        witness: Witness,
        runtime: str = RUNTIME,
    ) -> None:
        self._world = world
        self.name = name
        self._resources = resources
        self._runtime_name = runtime
        self._connect = connect
        self._witness = witness
        self._chance = world.source(f"node/{name}")
        self._lives = 0
        self._boots = 1
        self._machines = 1
        self.disk = Disk(identity=f"{name}-1")
        self.runtime = SimulatedRuntime(world, name, self._reported, witness, runtime)
        self.up = False
        self._is_crashed = False
        self.skew_ms = 0
        self.slow_disk_ms = 0
        self.worker: Worker
        self._unavailable = ""
        self._disk_free_ms = 0
        self._alone_ms: int | None = None
        self._hindered_ms = 0
        self._link: End | None = None
        self._timers: dict[str, int] = {}
        self._foreign: dict[str, ForeignContainer] = {}
        self._telling = FactsTelling()

    @property
    def ends(self) -> Callable[[Assignment], tuple[int, int] | None]:
        """When programs end by themselves: (milliseconds after the start, exit code), or None."""
        return self.runtime.ends

    @ends.setter
    def ends(self, ends: Callable[[Assignment], tuple[int, int] | None]) -> None:
        self.runtime.ends = ends

    @property
    def idle(self) -> bool:
        """Has it a session, and nothing to do but to run what it runs?"""
        told = all(not record.unacknowledged for record in self.worker.records.values()) if self.up else False
        written = self._disk_free_ms <= self._world.now_ms
        return told and written and self._link is not None and self._link.open and self.runtime.idle

    def containers(self) -> list[str]:
        """Tasks whose containers clients of its engine can get hold of."""
        return [] if self._is_crashed else self.runtime.touchable()

    # What a plan does to it

    def start(self) -> None:
        """The agent starts: it reads its disk, looks at its runtime, and dials."""
        if self.up:
            return
        self.up = True
        self._is_crashed = False
        self._lives += 1
        self._telling.hello()
        self.worker = Worker([self._runtime_name], list(self.disk.records.values()), self.disk.epoch)
        self._timers.clear()
        self._unavailable = ""
        self._disk_free_ms = self._world.now_ms
        self._alone_ms = None  # an agent that begins anew counts anew
        self._server_is_away()
        self.runtime.agent_begins()
        self._in_this_life(self._chance.randint(0, RECONNECT_MS), self._dial)
        self._world.note(self.name, "agent starts")

    def stop(self, planned: bool) -> None:
        """The agent ends; what runs goes on."""
        if not self.up:
            return
        self._world.note(self.name, "agent stops" if planned else "agent dies")
        self._world.strike("an agent is stopped" if planned else "an agent is killed")
        link, self._link = self._link, None
        self.up = False
        self._lives += 1
        self.runtime.agent_ends()
        if link is not None:
            if planned:
                link.send(Goodbye())
            link.close("the agent has ended")

    def crash(self, disk_lost: bool) -> None:
        """The machine: what ran is gone, and with its disk all that it knew."""
        self.stop(planned=False)
        self._world.note(self.name, f"machine crashes{', disk lost' if disk_lost else ''}")
        self._world.strike("a machine crashes and its disk is lost" if disk_lost else "a machine crashes")
        self.runtime.crash(disk_lost)
        self._keep_foreign(lambda _: False)
        self._is_crashed = True
        self._boots += 1
        if disk_lost:
            self._machines += 1
            self.disk = Disk(identity=f"{self.name}-{self._machines}")

    def restart_runtime(self, keeps_tasks: bool) -> None:
        """As an engine's daemon does."""
        self._world.note(self.name, f"runtime restarts, {'keeping' if keeps_tasks else 'losing'} its tasks")
        self._world.strike(f"a runtime restarts and {'keeps' if keeps_tasks else 'loses'} its tasks")
        self._hindered_ms = self._world.now_ms
        self.runtime.restart(keeps_tasks)

    @property
    def facts(self) -> NodeFacts | None:
        """What its agent knows; None where nobody ever used its engine."""
        return self._telling.facts

    def start_foreign(self, container: ForeignContainer) -> None:
        """Somebody starts a container on its engine."""
        self._world.strike("a foreign container is started")
        self._foreign[container.id] = container
        self._look_at_engine()

    def remove_foreign(self, container: str) -> None:
        """It is removed, unless it is gone with its machine."""
        self._keep_foreign(lambda one: one.id != container)

    def _keep_foreign(self, wanted: Callable[[ForeignContainer], bool]) -> None:
        kept = {one.id: one for one in self._foreign.values() if wanted(one)}
        if kept != self._foreign:
            self._foreign = kept
            self._look_at_engine()

    def _look_at_engine(self) -> None:
        self._tell(self._telling.changed(NodeFacts(containers=self._foreign)))

    def _tell(self, message: Facts | None) -> None:
        if message is not None and self._link is not None:
            self._link.send(message)

    def heal(self) -> None:
        """All is well; its clock stays wrong."""
        self.slow_disk_ms = 0
        self.runtime.heal()
        self._keep_foreign(lambda one: not one.cpus_thousandths)
        self.start()

    # The session

    def _server_is_away(self) -> None:
        """From now on the node is alone, unless it was before: a session that no server has welcomed changes nothing.
        What may not run then is looked at when it must have been stopped."""
        self._decide(decisions.ServerAway())
        if self._alone_ms is not None:
            return
        since_ms = self._alone_ms = self._world.now_ms
        for task, record in self.worker.records.items():
            after_ms = record.assignment.spec.policies.partition.stop_after_ms
            if after_ms is not None:
                within_ms = after_ms + STOPPED_WITHIN_MS
                self._in_this_life(within_ms, lambda task=task: self._look_whether_stopped(task, since_ms))  # type: ignore[misc]

    def _look_whether_stopped(self, task: str, since_ms: int) -> None:
        one = self.runtime.tasks.get(task)
        if self._alone_ms != since_ms or self._hindered_ms >= since_ms or one is None or one.phase is not Phase.RUNNING:
            return
        raise Broken(f"task {task} runs on node {self.name}, alone since {since_ms} ms, which its policy forbids")

    def _in_this_life(self, delay_ms: int, call: Callable[[], None]) -> None:
        life = self._lives

        def guarded() -> None:
            if self.up and self._lives == life:
                call()

        self._world.after(delay_ms, guarded)

    def _dial(self) -> None:
        link = self._connect(self.name)
        if link is None:
            self._in_this_life(RECONNECT_MS, self._dial)
            return
        life = self._lives
        self._link = link
        link.received = lambda message: self._take(message) if self._lives == life else None
        link.closed = lambda _: self._lost(link) if self._lives == life else None
        self._hello(link)
        self._in_this_life(HEARTBEAT_MS, lambda: self._beat(link))

    def _lost(self, link: End) -> None:
        if self._link is link:
            self._link = None
            self._server_is_away()
            self._in_this_life(RECONNECT_MS, self._dial)

    def _beat(self, link: End) -> None:
        if link.open:
            link.send(Heartbeat())
            self._in_this_life(HEARTBEAT_MS, lambda: self._beat(link))

    def _hello(self, link: End) -> None:
        info = NodeInfo(
            id=self.disk.identity,
            name=self.name,
            address=self.name,
            resources=self._resources,
            ports=PortSet.parse("31000-31099"),
            runtimes=() if self._unavailable else (self._runtime_name,),
            unavailable={self._runtime_name: self._unavailable} if self._unavailable else {},
            boot_id=str(self._boots),
        )
        facts, statuses = self._telling.hello(), self.worker.statuses()
        link.send(Hello(node=info, cluster_id=self.disk.cluster_id, statuses=statuses, facts=facts))

    def _take(self, message: Any) -> None:
        match message:
            case Welcome():
                self.disk.cluster_id = self.disk.cluster_id or message.cluster_id
                if self.worker.is_deposed(message.epoch) and self._link is not None:
                    self._link.close("another server leads")
                else:
                    self._alone_ms = None
                    self._decide(decisions.ServerHere())
                    self._tell(self._telling.welcomed(message.understands, known=message.facts))
            case Refused():
                self._world.note(self.name, f"refused: {message.reason}")
            case Assignments():
                self._witness.assigned(self.disk.identity, message)
                self._decide(message)
            case Received():
                self._decide(message)

    # The worker

    def _reported(self, event: RuntimeEvent) -> None:
        """Of the runtime; nobody hears it while the agent is down."""
        if not self.up:
            return
        before = self._unavailable
        if isinstance(event, Unavailable):
            self._unavailable = event.reason
        elif isinstance(event, Snapshot):
            self._unavailable = ""
        self._decide(event)
        if self._unavailable != before and self._link is not None:
            self._hello(self._link)

    def _decide(self, event: decisions.Event) -> None:
        effects = self.worker.handle(event, self._world.now(self.skew_ms))
        for effect in effects:
            if isinstance(effect, decisions.Save) and effect.record.alone and effect.record.live:
                alone_ms = self._world.now_ms - self._alone_ms if self._alone_ms is not None else 0
                self._witness.stopped_alone(self.name, effect.record.assignment, alone_ms)
        if self.skew_ms:
            self._world.strike("a node's clock is wrong")
        delay_ms = 0
        if self.slow_disk_ms and any(isinstance(one, decisions.Save | decisions.Drop) for one in effects):
            self._world.strike("a disk is slow")
            delay_ms = self._chance.randint(0, self.slow_disk_ms)
        self._disk_free_ms = max(self._disk_free_ms, self._world.now_ms) + delay_ms
        if self._disk_free_ms > self._world.now_ms:
            self._hindered_ms = max(self._hindered_ms, self._disk_free_ms)
        self._in_this_life(self._disk_free_ms - self._world.now_ms, lambda: self._save_and_carry_out(effects))

    def _save_and_carry_out(self, effects: list[decisions.Effect]) -> None:
        for effect in effects:
            match effect:
                case decisions.Save():
                    self.disk.records[effect.record.assignment.task] = effect.record
                case decisions.Drop():
                    self.disk.records.pop(effect.task, None)
                case decisions.SaveEpoch():
                    self.disk.epoch = effect.epoch
        self._carry_out(effects)

    def _carry_out(self, effects: list[decisions.Effect]) -> None:
        statuses: dict[tuple[str, int], Status] = {}
        for effect in effects:
            match effect:
                case decisions.Tell():
                    statuses.update(((status.task, status.incarnation), status) for status in effect.statuses)
                case decisions.Start():
                    self.runtime.start(effect.assignment)
                case decisions.Signal() | decisions.KillNow():
                    self.runtime.kill(effect.task)
                case decisions.Remove():
                    self.runtime.remove(effect.task)
                case decisions.SetTimer():
                    self._set_timer(effect.token, effect.delay_ms)
        if statuses and self._link is not None:
            self._link.send(Statuses(items=tuple(statuses.values())))

    def _set_timer(self, token: str, delay_ms: int) -> None:
        number = self._timers[token] = self._timers.get(token, 0) + 1

        def due() -> None:
            if self._timers.get(token) == number:
                self._decide(decisions.TimerDue(token))

        self._in_this_life(delay_ms, due)

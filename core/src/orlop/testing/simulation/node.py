"""A simulated node: the real worker, a disk, and a runtime that starts, fails, and forgets as runtimes do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

import attrs

from orlop.agent import worker as decisions
from orlop.agent.runtimes.interface import Phase, Report, Snapshot, Unavailable
from orlop.agent.worker import TaskRecord, Worker
from orlop.model.messages import (
    Assignment,
    Assignments,
    Epoch,
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
from orlop.model.tasks import Exit, Outcome, Status
from orlop.testing.simulation.network import End
from orlop.testing.simulation.world import World

HEARTBEAT_MS: Final = 1_000
RECONNECT_MS: Final = 500
RUNTIME: Final = "process"
SLOW_PULL_MS: Final = 8_000
EARLY_DEATH_MS: Final = 300


class Witness(Protocol):
    """Who sees what really happens on nodes."""

    def assigned(self, node: str, message: Assignments) -> None: ...

    def started(self, node: str, assignment: Assignment) -> None: ...

    def ended(self, node: str, task: str, why: str) -> None: ...


@attrs.define
class Running:
    """What the runtime has of one task. payload: `run_ms` until it ends by itself, with `code`."""

    assignment: Assignment
    incarnation: int
    phase: Phase
    exit: Exit | None = None


def planned_end(assignment: Assignment) -> tuple[int, int] | None:
    """(milliseconds after its start, exit code) of a program that ends by itself, as its payload says."""
    payload = assignment.spec.payload
    return (payload["run_ms"], payload.get("code", 0)) if payload.get("run_ms") is not None else None


@attrs.define
class Disk:
    """What survives the agent, and, unless it is lost, the machine."""

    identity: str
    cluster_id: str = ""
    records: dict[str, TaskRecord] = attrs.field(factory=dict)
    epoch: Epoch | None = None


class SimulatedNode:
    """A machine. connect: gives the end of a new session with the leader, or None.

    trouble: chances that a start is slow, and that it dies at once. ends: when programs end by themselves.
    """

    def __init__(
        self, world: World, name: str, resources: Resources, connect: Callable[[str], End | None], witness: Witness
    ) -> None:
        self._world = world
        self.name = name
        self._resources = resources
        self._connect = connect
        self._witness = witness
        self._chance = world.source(f"node/{name}")
        self._lives = 0
        self._boots = 1
        self._machines = 1
        self.disk = Disk(identity=f"{name}-1")
        self.tasks: dict[str, Running] = {}
        self.up = False
        self.skew_ms = 0
        self.slow_disk_ms = 0
        self.slow_starts = 0.0
        self.early_deaths = 0.0
        self.ends: Callable[[Assignment], tuple[int, int] | None] = planned_end
        self.worker: Worker
        self._link: End | None = None
        self._timers: dict[str, int] = {}

    # What a plan does to it

    def start(self) -> None:
        """The agent starts: it reads its disk, looks at its runtime, and dials."""
        if self.up:
            return
        self.up = True
        self._lives += 1
        self.worker = Worker([RUNTIME], list(self.disk.records.values()), self.disk.epoch)
        self._timers.clear()
        self._in_this_life(0, self._snapshot)
        self._in_this_life(self._chance.randint(0, RECONNECT_MS), self._dial)
        self._world.note(self.name, "agent starts")

    def stop(self, planned: bool) -> None:
        """The agent ends; what runs goes on."""
        if not self.up:
            return
        self._world.note(self.name, "agent stops" if planned else "agent dies")
        link, self._link = self._link, None
        self.up = False
        self._lives += 1
        if link is not None:
            if planned:
                link.send(Goodbye())
            link.close("the agent has ended")

    def crash(self, disk_lost: bool) -> None:
        """The machine: what ran is gone, and with its disk all that it knew."""
        self.stop(planned=False)
        self._world.note(self.name, f"machine crashes{', disk lost' if disk_lost else ''}")
        for task, one in list(self.tasks.items()):
            self._gone(task, "the machine crashed")
            if one.phase is Phase.PREPARING or disk_lost:
                del self.tasks[task]
            elif one.phase is not Phase.ENDED:  # what runtimes keep on disk tells that it had been started
                one.phase, one.exit = Phase.ENDED, Exit(outcome=Outcome.LOST, reason="the machine was booted")
        self._boots += 1
        if disk_lost:
            self._machines += 1
            self.disk = Disk(identity=f"{self.name}-{self._machines}")

    def restart_runtime(self, keeps_tasks: bool) -> None:
        """As an engine's daemon does: away for a while, with or without what it ran."""
        self._world.note(self.name, f"runtime restarts, {'keeping' if keeps_tasks else 'losing'} its tasks")
        if self.up:
            self._decide(Unavailable(runtime=RUNTIME, reason="restarting"))
        if not keeps_tasks:
            for task, running in list(self.tasks.items()):
                if running.phase is not Phase.ENDED:
                    self._gone(task, "the runtime was restarted")
                    running.phase = Phase.ENDED
                    running.exit = Exit(outcome=Outcome.FAILED, code=137, reason="killed with its daemon")
        self._in_this_life(1_500, self._snapshot)

    def running(self) -> list[Running]:
        """What really runs."""
        return [one for one in self.tasks.values() if one.phase in (Phase.STARTING, Phase.RUNNING)]

    # The session

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
            runtimes=(RUNTIME,),
            boot_id=str(self._boots),
        )
        link.send(Hello(node=info, cluster_id=self.disk.cluster_id, statuses=self.worker.statuses()))

    def _take(self, message: Any) -> None:
        match message:
            case Welcome():
                self.disk.cluster_id = self.disk.cluster_id or message.cluster_id
                if self.worker.is_deposed(message.epoch) and self._link is not None:
                    self._link.close("another server leads")
            case Refused():
                self._world.note(self.name, f"refused: {message.reason}")
            case Assignments():
                self._witness.assigned(self.disk.identity, message)
                self._decide(message)
            case Received():
                self._decide(message)

    # The worker

    def _decide(self, event: decisions.Event) -> None:
        effects = self.worker.handle(event, self._world.now(self.skew_ms))
        for effect in effects:
            match effect:
                case decisions.Save():
                    self.disk.records[effect.record.assignment.task] = effect.record
                case decisions.Drop():
                    self.disk.records.pop(effect.task, None)
                case decisions.SaveEpoch():
                    self.disk.epoch = effect.epoch
        delay_ms = self._chance.randint(0, self.slow_disk_ms) if self.slow_disk_ms else 0
        self._in_this_life(delay_ms, lambda: self._carry_out(effects))

    def _carry_out(self, effects: list[decisions.Effect]) -> None:
        statuses: dict[tuple[str, int], Status] = {}
        for effect in effects:
            match effect:
                case decisions.Tell():
                    statuses.update(((status.task, status.incarnation), status) for status in effect.statuses)
                case decisions.Start():
                    self._start(effect.assignment)
                case decisions.Signal() | decisions.KillNow():
                    self._kill(effect.task)
                case decisions.Remove():
                    self._remove(effect.task)
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

    # The runtime

    def _snapshot(self) -> None:
        reports = tuple(self._report_of(task, one) for task, one in self.tasks.items())
        self._decide(Snapshot(runtime=RUNTIME, reports=reports))

    @staticmethod
    def _report_of(task: str, one: Running) -> Report:
        return Report(task=task, incarnation=one.incarnation, phase=one.phase, exit=one.exit, external_id=task)

    def _report(self, task: str) -> None:
        one = self.tasks.get(task)
        if one is not None and self.up:
            self._decide(self._report_of(task, one))

    def _start(self, assignment: Assignment) -> None:
        known = self.tasks.get(assignment.task)
        if known is not None and known.incarnation >= assignment.incarnation:
            self._report(assignment.task)
            return
        one = self.tasks[assignment.task] = Running(assignment, assignment.incarnation, Phase.PREPARING)
        slow = self._chance.random() < self.slow_starts
        delay_ms = self._chance.randint(1, SLOW_PULL_MS if slow else 30)
        boot = self._boots

        def up() -> None:
            if self._boots == boot and self.tasks.get(assignment.task) is one and one.phase is Phase.PREPARING:
                one.phase = Phase.RUNNING
                self._witness.started(self.name, assignment)
                self._plan_end(one)
                self._report(assignment.task)

        self._world.after(delay_ms, up)

    def _plan_end(self, one: Running) -> None:
        end = self.ends(one.assignment)
        if self._chance.random() < self.early_deaths:
            end = (EARLY_DEATH_MS, 1)
        if end is not None:
            run_ms, code = end
            outcome = Outcome.FINISHED if code == 0 else Outcome.FAILED
            self._world.after(run_ms, lambda: self._end(one, Exit(outcome=outcome, code=code), "it ended by itself"))

    def _end(self, one: Running, exit_: Exit, why: str) -> None:
        task = one.assignment.task
        if self.tasks.get(task) is one and one.phase is not Phase.ENDED:
            if one.phase is Phase.RUNNING:
                self._witness.ended(self.name, task, why)
            one.phase, one.exit = Phase.ENDED, exit_
            self._report(task)

    def _gone(self, task: str, why: str) -> None:
        if self.tasks[task].phase is Phase.RUNNING:
            self._witness.ended(self.name, task, why)

    def _kill(self, task: str) -> None:
        one = self.tasks.get(task)
        if one is not None:
            exit_ = Exit(outcome=Outcome.FAILED, signal=15)
            self._world.after(self._chance.randint(1, 200), lambda: self._end(one, exit_, "it was killed"))

    def _remove(self, task: str) -> None:
        one = self.tasks.get(task)
        if one is not None and one.phase is Phase.ENDED:
            del self.tasks[task]

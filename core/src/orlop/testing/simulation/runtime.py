"""A simulated runtime: an engine that pulls, creates, starts, and forgets as engines do, and the agent's way to it.

What the engine has survives the agent; what the agent is waiting for (a pull, a name that is not free) ends with it.
A task's container has a name of its own. When it is held, an agent does what the docker runtime does: a container that
an earlier start of the same task has left is adopted, one that is just being removed is waited for, and beyond that
the start has failed. While the engine is away nothing is begun; what was asked for is asked again when it is back.

What is wanted prepared is created and not started, and what is kept (`Policies.keep_ended`) stays when its run ends:
clients of the engine start, stop and remove it, whether an agent is there to see it or not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import attrs

from orlop.agent.runtimes.interface import Phase, Report, RuntimeEvent, Snapshot, Unavailable
from orlop.model.messages import Assignment
from orlop.model.tasks import Desired, Exit, Outcome
from orlop.testing.simulation.world import World

RUNTIME: Final = "process"
SLOW_PULL_MS: Final = 8_000
EARLY_DEATH_MS: Final = 300
BUSY_MS: Final = 3_000
RESTART_MS: Final = 1_500
AGAIN_MS: Final = 100
NAME_FREE_WITHIN_MS: Final = 5_000
NOT_STARTED: Final = (Phase.PREPARING, Phase.PREPARED)
TOUCHABLE: Final = (Phase.PREPARED, Phase.RUNNING, Phase.ENDED)
_NEVER_STARTED: Final = Exit(outcome=Outcome.KILLED, reason="killed before it was started")


class Witness(Protocol):
    """Who sees what really runs."""

    def started(self, node: str, assignment: Assignment) -> None: ...

    def ended(self, node: str, task: str, why: str) -> None: ...


@attrs.define(eq=False)
class Running:
    """What the engine has of one task. PREPARING: created, not started; PREPARED: and not to be started by its agent.

    runs: how often clients of the engine have started it.
    """

    assignment: Assignment
    incarnation: int
    phase: Phase
    exit: Exit | None = None
    runs: int = 0

    @property
    def kept(self) -> bool:
        return self.assignment.spec.policies.keep_ended


def planned_end(assignment: Assignment) -> tuple[int, int] | None:
    """(milliseconds after its start, exit code) of a program that ends by itself, as its payload says."""
    payload = assignment.spec.payload
    return (payload["run_ms"], payload.get("code", 0)) if payload.get("run_ms") is not None else None


@attrs.define(eq=False)
class _Start:
    """A start that the agent is busy with. free_until_ms: how long it waits for the name."""

    assignment: Assignment
    free_until_ms: int


@attrs.frozen
class _Leftover:
    """Who holds a name that is not ours. gone_ms: when it is gone; None when it stays."""

    gone_ms: int | None


class SimulatedRuntime:
    """report: takes what the agent is told, which may be down. ends: when programs end by themselves.

    slow_starts, early_deaths, name_conflicts: how probable it is that a pull takes long, that a task dies at once, and
    that a name is held.
    """

    def __init__(
        self, world: World, node: str, report: Callable[[RuntimeEvent], None], witness: Witness, name: str = RUNTIME
    ) -> None:
        self._world = world
        self._node = node
        self._name = name
        self._report_to = report
        self._witness = witness
        self._chance = world.source(f"node/{node}")
        self.tasks: dict[str, Running] = {}
        self._starting: dict[str, _Start] = {}
        self._leftovers: dict[str, _Leftover] = {}
        self.ends: Callable[[Assignment], tuple[int, int] | None] = planned_end
        self._agents = 0
        self._boots = 1
        self._away_until_ms = 0
        self.heal()

    def heal(self) -> None:
        """All is well."""
        self.slow_starts = self.early_deaths = self.name_conflicts = 0.0

    # What happens to it

    def agent_begins(self) -> None:
        """An agent connects: it is told all."""
        self._agents += 1
        if self._available():
            self._world.after(0, self._for_this_agent(self._snapshot))
        else:
            self._report_to(Unavailable(runtime=self._name, reason="restarting"))
            self._world.after(self._away_until_ms - self._world.now_ms, self._for_this_agent(self._snapshot))

    def agent_ends(self) -> None:
        """What it was waiting for is forgotten."""
        self._agents += 1
        self._starting.clear()

    def crash(self, disk_lost: bool) -> None:
        """The machine is gone, and the agent with it: nothing runs any more."""
        for task, one in list(self.tasks.items()):
            self._gone(task, "the machine crashed")
            if disk_lost:
                del self.tasks[task]
            elif one.phase not in NOT_STARTED:  # what engines keep on disk tells that it had been started
                outcome = Outcome.FAILED if one.kept else Outcome.LOST
                one.phase, one.exit = Phase.ENDED, one.exit or Exit(outcome=outcome, reason="the machine crashed")
        self._boots += 1

    def restart(self, keeps_tasks: bool) -> None:
        """As an engine's daemon does: away for a while, with or without what it ran."""
        self._away_until_ms = self._world.now_ms + RESTART_MS
        self._report_to(Unavailable(runtime=self._name, reason="restarting"))
        if not keeps_tasks:
            for task, running in list(self.tasks.items()):
                if running.phase in (Phase.STARTING, Phase.RUNNING):
                    self._gone(task, "the runtime was restarted")
                    running.phase = Phase.ENDED
                    running.exit = Exit(outcome=Outcome.FAILED, code=137, reason="killed with its daemon")
        self._world.after(RESTART_MS, self._for_this_agent(self._snapshot))

    # What the agent asks of it

    def start(self, assignment: Assignment) -> None:
        """Prepares and starts it, or adopts what an earlier call has left."""
        task = assignment.task
        known = self.tasks.get(task)
        if task in self._starting or (known is not None and known.incarnation > assignment.incarnation):
            return
        if known is not None and known.incarnation == assignment.incarnation and known.phase is not Phase.PREPARING:
            if known.phase is not Phase.PREPARED or assignment.desired is Desired.PREPARED:
                self._report(task)
                return
            known.phase = Phase.PREPARING  # an agent has made it, and is to start it now
        start = self._starting[task] = _Start(assignment, 0)
        pull_ms = self._chance.randint(0, 10)
        if known is None and self._happens("a start is slow", self.slow_starts):
            pull_ms = self._chance.randint(1, SLOW_PULL_MS)
        self._go_on(start, pull_ms, self._create)

    def kill(self, task: str) -> None:
        """Ends it soon; a start that is not done is called off."""
        if not self._available():
            self._world.after(AGAIN_MS, self._for_this_agent(lambda: self.kill(task)))
            return
        one = self.tasks.get(task)
        start = self._starting.pop(task, None)
        if one is None or one.phase in NOT_STARTED:
            if one is not None or start is not None:
                self.tasks.pop(task, None)
                incarnation = one.incarnation if one is not None else start.assignment.incarnation if start else 0
                self._tell(task, incarnation, Phase.ENDED, _NEVER_STARTED)
            return
        if one.phase is Phase.ENDED and one.kept:
            self._report(task)
            return
        exit_ = Exit(outcome=Outcome.FAILED, signal=15)
        self._world.after(self._chance.randint(1, 200), lambda: self._end(one, exit_, "it was killed"))

    def remove(self, task: str) -> None:
        """Forgets an ended one."""
        one = self.tasks.get(task)
        if one is not None and one.phase is Phase.ENDED:
            del self.tasks[task]

    # What its clients do

    def touchable(self) -> list[str]:
        """Tasks whose containers are there for the engine's clients to start, stop and remove."""
        made = self._available() and (one for one in self.tasks.values() if one.kept and one.phase in TOUCHABLE)
        return [one.assignment.task for one in made or ()]

    def touch(self, task: str, what: str) -> bool:
        """Did a client of the engine "start", "stop" or "remove" it? Not what is so already."""
        one = self.tasks[task]
        self._world.note(self._node, f"a client wants to {what} {task[:6]}")
        if what == "start" and one.phase is not Phase.RUNNING:
            one.runs += 1
            one.phase, one.exit = Phase.RUNNING, None
            self._witness.started(self._node, attrs.evolve(one.assignment, incarnation=1 + one.runs))
            self._plan_end(one)
            self._report(task)
        elif what == "stop" and one.phase is Phase.RUNNING:
            self._end(one, Exit(outcome=Outcome.FAILED, signal=15), "a client has stopped it")
        elif what == "remove":
            self._gone(task, "a client has removed it")
            del self.tasks[task]
            gone = Exit(outcome=Outcome.LOST, reason="its container was removed by someone else")
            self._tell(task, one.incarnation, Phase.ENDED, one.exit or gone)
        else:
            return False
        self._world.strike(f"a client has made an engine {what} a container")
        return True

    # A start, step by step

    def _go_on(self, start: _Start, delay_ms: int, step: Callable[[_Start], None]) -> None:
        """Once the time is over, unless the start is called off or its agent has gone; not while the engine is away."""

        def due() -> None:
            if self._starting.get(start.assignment.task) is not start:
                return
            if self._available():
                step(start)
            else:
                self._world.after(AGAIN_MS, due)

        self._world.after(delay_ms, due)

    def _create(self, start: _Start) -> None:
        assignment = start.assignment
        known = self.tasks.get(assignment.task)
        if known is None:
            leftover = self._leftover(assignment.task)
            if leftover is not None:
                self._wait_for_name(start, leftover)
                return
            known = self.tasks[assignment.task] = Running(assignment, assignment.incarnation, Phase.PREPARING)
        else:
            self._world.strike("a name is held by what an earlier start has left")
        if known.phase is Phase.PREPARING and assignment.desired is Desired.PREPARED:
            del self._starting[assignment.task]
            known.phase = Phase.PREPARED
            self._report(assignment.task)
        elif known.phase is Phase.PREPARING:
            boots, one = self._boots, known
            busy = self._happens("an engine is busy", self.slow_starts)
            delay_ms = self._chance.randint(1, BUSY_MS if busy else 20)
            asked = self._chance.random() < 0.5  # if not, its agent must still be there then
            self._world.after(delay_ms, lambda: self._run(start, one, boots, asked))
        else:
            del self._starting[assignment.task]
            self._report(assignment.task)

    def _leftover(self, task: str) -> _Leftover | None:
        """Who holds the name, decided at the first try."""
        if task not in self._leftovers and self._happens("a name is held by others", self.name_conflicts):
            lasts_ms = self._chance.choice((300, 2_000, 60_000, None))
            self._leftovers[task] = _Leftover(None if lasts_ms is None else self._world.now_ms + lasts_ms)
        leftover = self._leftovers.get(task)
        if leftover is not None and leftover.gone_ms is not None and leftover.gone_ms <= self._world.now_ms:
            return None
        return leftover

    def _wait_for_name(self, start: _Start, leftover: _Leftover) -> None:
        start.free_until_ms = start.free_until_ms or self._world.now_ms + NAME_FREE_WITHIN_MS
        if leftover.gone_ms is not None and self._world.now_ms < start.free_until_ms:
            self._go_on(start, AGAIN_MS, self._create)
            return
        task = start.assignment.task
        del self._starting[task]
        exit_ = Exit(outcome=Outcome.ERROR, reason="the name is not free")
        self._tell(task, start.assignment.incarnation, Phase.ENDED, exit_)

    def _run(self, start: _Start, one: Running, boots: int, asked: bool) -> None:
        """The engine starts it. asked: whether the agent still waits or not."""
        task = one.assignment.task
        if not asked and self._starting.get(task) is not start:
            return
        if self._boots != boots or self.tasks.get(task) is not one or one.phase is not Phase.PREPARING:
            return
        if not self._available():
            self._go_on(start, AGAIN_MS, self._create)
            return
        if self._starting.get(task) is start:
            del self._starting[task]
        one.phase = Phase.RUNNING
        self._witness.started(self._node, one.assignment)
        self._plan_end(one)
        self._report(task)

    def _plan_end(self, one: Running) -> None:
        run = one.runs
        end = self.ends(one.assignment)
        if self._happens("a task dies at once", self.early_deaths):
            end = (EARLY_DEATH_MS, 1)
        if end is not None:
            run_ms, code = end
            outcome = Outcome.FINISHED if code == 0 else Outcome.FAILED
            self._world.at(
                self._world.elapsed_ms + run_ms,
                lambda: self._end(one, Exit(outcome=outcome, code=code), "it ended by itself", run),
                lambda: one.phase is Phase.RUNNING and one.runs == run,
            )

    def _end(self, one: Running, exit_: Exit, why: str, run: int | None = None) -> None:
        """run: the one that is over; by default whichever it is."""
        task = one.assignment.task
        if self.tasks.get(task) is one and one.phase is Phase.RUNNING and run in (None, one.runs):
            self._witness.ended(self._node, task, why)
            one.phase, one.exit = Phase.ENDED, exit_
            self._report(task)

    # Reports

    def _snapshot(self) -> None:
        if not self._available():
            return  # it went away again, and tells when it is back
        found = ((one, self._report_of(task, one)) for task, one in self.tasks.items())
        reports = [
            attrs.evolve(report, phase=Phase.PREPARING) if one.phase is Phase.PREPARED else report
            for one, report in found
        ]
        waiting = [start.assignment for task, start in self._starting.items() if task not in self.tasks]
        reports += [Report(task=one.task, incarnation=one.incarnation, phase=Phase.PREPARING) for one in waiting]
        self._report_to(Snapshot(runtime=self._name, reports=tuple(reports)))

    @staticmethod
    def _report_of(task: str, one: Running) -> Report:
        remains = one.kept and one.phase is Phase.ENDED
        return Report(
            task=task, incarnation=one.incarnation, phase=one.phase, exit=one.exit, external_id=task, remains=remains
        )

    def _report(self, task: str) -> None:
        one = self.tasks.get(task)
        if one is not None and self._available():
            self._report_to(self._report_of(task, one))

    def _tell(self, task: str, incarnation: int, phase: Phase, exit_: Exit) -> None:
        """Of something that the engine does not have."""
        self._report_to(Report(task=task, incarnation=incarnation, phase=phase, exit=exit_))

    @property
    def idle(self) -> bool:
        """Is there nothing that it is busy with, other than to run what it runs?"""
        between = (Phase.PREPARING, Phase.STARTING)
        return self._available() and not self._starting and all(one.phase not in between for one in self.tasks.values())

    # Helpers

    def _available(self) -> bool:
        return self._world.now_ms >= self._away_until_ms

    def _for_this_agent(self, call: Callable[[], None]) -> Callable[[], None]:
        agent = self._agents
        return lambda: call() if self._agents == agent else None

    def _happens(self, kind: str, probability: float) -> bool:
        if not probability or self._chance.random() >= probability:
            return False
        self._world.strike(kind)
        return True

    def _gone(self, task: str, why: str) -> None:
        if self.tasks[task].phase is Phase.RUNNING:
            self._witness.ended(self._node, task, why)

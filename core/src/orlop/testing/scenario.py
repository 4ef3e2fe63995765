"""A framework under faults, for its author: what runs, what clients say, and what must hold, on simulated clusters.

    class ThreeCopies(Scenario):
        def frameworks(self):
            return [KeepAlive(Config(copies=3))]

        def check_end(self, cluster):
            assert cluster.running("keepalive") == ["copy-0", "copy-1", "copy-2"]

    for seed in range(20):
        run_scenario(seed, ThreeCopies)

A seed makes a history: a minute of trouble, unless another length is asked for (servers are killed, held up and cut
off, the store refuses and loses answers, networks are slow or cut, machines crash, programs die early, operators kill
tasks), among which come the scenario's commands, and then 75 seconds in which all is well. With `leaps` it may be
months, of which what happens in them is simulated, and troubles come in minutes that the scenario names
(`Scenario.spells`). The same seed gives the same history. What must hold of every framework is checked without being
asked for: what was never durably decided neither starts nor stops, nothing starts twice, no key runs twice but where a
node was given up, no node carries more than it has.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import orlop
from orlop.framework import Framework, NotAvailable, View
from orlop.kernel.state import State
from orlop.model.messages import Assignment
from orlop.testing.simulation.histories import Failure, shrunk
from orlop.testing.simulation.plan import HEALING_S, SPELL_MS, Operation, Plan, Shape, make_plan
from orlop.testing.simulation.runtime import RUNTIME
from orlop.testing.simulation.simulation import Simulation
from orlop.testing.simulation.world import START_UTC_MS, Broken

KILLS_MAX: Final = 3
TRACE_LINES_SHOWN: Final = 60
NOTHING: Final = Operation(0, "nothing")


class SimulatedCluster:
    """What a check may look at. It changes nothing."""

    def __init__(self, simulation: ScenarioSimulation) -> None:
        self._simulation = simulation

    @property
    def time_s(self) -> float:
        """Virtual seconds since the beginning."""
        return self._simulation.world.elapsed_ms / 1000

    @property
    def utc_ms(self) -> int:
        """What a clock shows that is right."""
        return self._simulation.world.now().utc_ms

    @property
    def has_leader(self) -> bool:
        """Does a server lead now?"""
        return self._simulation.committed() is not None

    def running(self, framework: str | None = None) -> list[str]:
        """Keys of the programs that run on nodes at this moment, sorted, whether a server knows of them or not.

        One that runs twice, because its node was given up and is still there, stands there twice.
        """
        programs = (one for _, one in self._simulation.witness.running.values())
        return sorted(one.key for one in programs if framework in (None, one.framework))

    def kept(self, framework: str) -> list[str]:
        """Keys of what is on nodes, running or not, of tasks that are kept (`Policies.keep_ended`), sorted."""
        made = (one for node in self._simulation.nodes.values() for one in node.runtime.tasks.values() if one.kept)
        return sorted(one.assignment.key for one in made if one.assignment.framework == framework)

    def view(self, framework: str) -> View:
        """What the framework sees of what is committed. Raises LookupError while nobody leads."""
        state = self._simulation.committed()
        if state is None:
            raise LookupError("nobody leads")
        return View(state, framework, self._simulation.world.now())


class Scenario:
    """See the module. A new one is made for each history: it may keep what its clients were answered.

    runtime: the name of what nodes run tasks with, as the specs of your frameworks' tasks say it.
    """

    runtime: ClassVar[str] = RUNTIME

    def frameworks(self) -> Iterable[Framework]:
        """New instances, as each server makes them that begins to lead."""
        raise NotImplementedError(f"{type(self).__name__} has no frameworks()")

    def commands(self, chance: random.Random) -> Iterable[tuple[float, str, Any]]:
        """What clients say: (seconds, framework, command), in any order, within the time of trouble.

        chance: the seed's randomness.
        """
        return ()

    def operations(self, chance: random.Random) -> Iterable[tuple[float, str, tuple[Any, ...]]]:
        """What else befalls the cluster: (seconds, what, arguments), as `commands`.

        "touch_container", ("start" | "stop" | "remove", a number): a client of an engine does so to one of the
        containers that tasks are kept in (`Policies.keep_ended`), whichever has that number.
        "empty_node", ("node0", within_ms, for_ms): an operator drains it, and what still runs there then is stopped.
        """
        return ()

    def spells(self, chance: random.Random) -> Iterable[float]:
        """When each minute of trouble begins, in seconds: in a long history, when your framework has something to do.

        Trouble in hours in which nothing happens finds little.
        """
        return (0.0,)

    def ends(self, framework: str, key: str, chance: random.Random) -> tuple[float, int] | None:
        """A program has started: (seconds until it ends by itself, exit code), or None when it runs on."""
        return None

    def answered(self, framework: str, command: Any, reply: Any) -> None:
        """A command was answered: what it did is durable."""

    def refused(self, framework: str, command: Any, reason: str) -> None:
        """The framework refused, or nobody could be asked: a command changed nothing."""

    def unknown(self, framework: str, command: Any) -> None:
        """The server vanished, or the store did not answer: a command may have been carried out, or may not."""

    def touched(self, what: str, framework: str, key: str, task: str) -> None:
        """A client of an engine has done so ("start", "stop", "remove") to the container of this task."""

    def check_step(self, cluster: SimulatedCluster) -> None:
        """What must hold at every moment, also in trouble: called whenever what runs or what is committed changed.

        Raises AssertionError.
        """

    def check_end(self, cluster: SimulatedCluster) -> None:
        """What must have come about after all troubles are over. Raises AssertionError."""


class ScenarioSimulation(Simulation):
    """A simulation that lets a scenario look at each step."""

    workload: _Played

    def __init__(self, seed: int, workload: _Played, plan: Plan, shape: Shape) -> None:
        super().__init__(seed, workload, plan, shape)
        self._cluster = SimulatedCluster(self)
        self._seen: tuple[Any, ...] = ()
        self._latest = 0
        for node in self.nodes.values():
            node.ends = self._ends

    def committed(self) -> State | None:
        """The leader's; None while nobody leads, or only one that has slept and knows less than others after it."""
        leader = self.leader()
        if leader is None or leader.life is None or leader.life.leading is None:
            return None
        state = leader.life.leading.pipeline.committed
        if state.version < self._latest:
            return None
        self._latest = state.version
        return state

    def _ends(self, assignment: Assignment) -> tuple[int, int] | None:
        chance = self.world.source(f"ends/{assignment.framework}/{assignment.key}")
        end = self.workload.scenario.ends(assignment.framework, assignment.key, chance)
        return (round(end[0] * 1000), end[1]) if end is not None else None

    def _touched(self, what: str, assignment: Assignment) -> None:
        self.workload.scenario.touched(what, assignment.framework, assignment.key, assignment.task)

    def _check(self) -> None:
        super()._check()
        state, running = self.committed(), self.witness.running
        seen = (None if state is None else state.version, len(running), next(reversed(running), None))
        if seen != self._seen:
            self._seen = seen
            self.workload.scenario.check_step(self._cluster)

    def _check_end(self) -> None:
        super()._check_end()
        self.workload.scenario.check_end(self._cluster)


class _Played:
    """A scenario as a workload."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        names = [framework.name for framework in scenario.frameworks()]
        self.frameworks: Mapping[str, Callable[[], Framework]] = {name: self._maker(name) for name in names}

    def _maker(self, name: str) -> Callable[[], Framework]:
        return lambda: next(one for one in self.scenario.frameworks() if one.name == name)

    def operation(self, chance: random.Random) -> Operation:
        """Its commands have times of their own, see `scenario_plan`."""
        return NOTHING

    def answered(self, framework: str, value: Any, answer: Any, error: Exception | None) -> None:
        if error is None:
            self.scenario.answered(framework, value, answer)
        elif isinstance(error, NotAvailable) and "outcome is not known" in str(error):
            self.scenario.unknown(framework, value)
        else:
            self.scenario.refused(framework, value, str(error))

    def unanswered(self, framework: str, value: Any) -> None:
        self.scenario.unknown(framework, value)

    def check(self, state: State, running: Iterable[tuple[str, str]]) -> None:
        """The simulation asks the scenario."""


def scenario_plan(seed: int, scenario: Scenario, shape: Shape, trouble: float) -> Plan:
    """Trouble, some operator's kills and the scenario's commands. Raises ValueError for a command outside its time."""
    chance = random.Random(f"{seed}/scenario")  # noqa: S311
    spells = tuple(scenario.spells(random.Random(f"{seed}/spells")))  # noqa: S311
    mixed = make_plan(seed, shape, lambda _: NOTHING, trouble, spells)
    operations = [one for one in mixed if one.what != NOTHING.what]
    for at_s, framework, command in scenario.commands(random.Random(f"{seed}/commands")):  # noqa: S311
        if not 0 <= at_s < shape.trouble_s:
            raise ValueError(f"commands(): expected seconds from 0 to below {shape.trouble_s:g}, got {at_s}")
        operations.append(Operation(round(at_s * 1000), "command", (framework, command)))
    for at_s, what, arguments in scenario.operations(random.Random(f"{seed}/operations")):  # noqa: S311
        if not 0 <= at_s < shape.trouble_s:
            raise ValueError(f"operations(): expected seconds from 0 to below {shape.trouble_s:g}, got {at_s}")
        operations.append(Operation(round(at_s * 1000), what, arguments))
    for _ in range(chance.randint(0, KILLS_MAX) if trouble and spells else 0):
        begins_ms = round(1000 * chance.choice(spells)) if len(spells) > 1 else 0
        at_ms, which = begins_ms + chance.randrange(SPELL_MS), chance.randrange(1_000)
        operations.append(Operation(at_ms, "kill_task", (which,)))
    return tuple(sorted(operations, key=lambda one: one.at_ms))


def run_scenario(
    seed: int,
    scenario: Callable[[], Scenario],
    *,
    servers: int = 3,
    nodes: int = 5,
    trouble: float = 1.0,
    trouble_s: float = SPELL_MS / 1000,
    healing_s: float = HEALING_S,
    leaps: bool = False,
    begins_utc_ms: int = START_UTC_MS,
    shrink: bool = True,
) -> str:
    """Plays one history; its digest, which is the same for the same seed.

    scenario: its class, or what makes one. trouble: how much of it in each minute of trouble; 0 is none. shrink: look
    for a shorter history that breaks, which takes up to some hundred others.
    trouble_s, healing_s, leaps, begins_utc_ms: see `Shape`. With `leaps` they may be months.
    Raises Broken with the history that breaks; ValueError for a scenario that cannot be played.
    """
    first = scenario()
    shape = Shape(
        servers=servers,
        nodes=nodes,
        trouble_s=trouble_s,
        healing_s=healing_s,
        leaps=leaps,
        begins_utc_ms=begins_utc_ms,
        runtime=first.runtime,
    )
    plan = scenario_plan(seed, first, shape, trouble)

    def workload() -> _Played:
        return _Played(scenario())

    try:
        return ScenarioSimulation(seed, workload(), plan, shape).run()
    except Exception as error:
        if not shrink:
            raise Broken(f"seed {seed}: {type(error).__name__}: {error}") from error
        failure = shrunk(seed, workload, plan, shape, ScenarioSimulation)
        raise Broken(_told(failure)) from error


def _told(failure: Failure) -> str:
    """For the author."""
    where = _where(failure.error)
    return "\n".join(
        [
            f"seed {failure.seed}: {failure.reason}",
            *([f"at {where}"] if where else []),
            "the shortest list of troubles and commands that was found to break it (seconds, what):",
            *([f"  {one}" for one in failure.plan] or ["  (nothing: it breaks without any trouble)"]),
            "the end of its history (seconds, who, what):",
            *(f"  {line}" for line in failure.trace[-TRACE_LINES_SHOWN:]),
        ]
    )


def _where(error: Exception | None) -> str:
    """The innermost line that is not Orlop's own; empty for none."""
    if error is None:
        return ""
    own = str(Path(orlop.__file__).parent)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(own)]
    return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""

"""A whole cluster in one object: the real kernel, real frameworks, simulated nodes, virtual time.

    cluster = Cluster(KeepAlive(Config(command="true")))
    cluster.add_node("n1", cpus=4, mem="1GiB")
    cluster.settle()
    assert len(cluster.running()) == 3
    cluster.end_task(cluster.running()[0], code=1)
    cluster.settle()
    assert len(cluster.running()) == 3

Nothing happens by itself: `settle` runs handlers and lets nodes act until nothing is left to do at this moment,
`advance` moves the clock, stopping at each wake-up and delayed ask on the way. After each step the kernel's
invariants are checked, and every handler is run a second time on the result: wanting something else then is an
error of the framework (`NotIdempotent`).

Its work grows with what happens, not with the size of the cluster: what all nodes answer to one step is one step
again, and of a large cluster only what has changed is checked each time.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from typing import Any, Final

import attrs

from orlop.framework import Changed, Explanation, Framework, NotPlaced, Refused, Task, View
from orlop.kernel.assignments import assignments
from orlop.kernel.events import (
    Answer,
    Assign,
    Effect,
    Event,
    ForgetNode,
    KillTask,
    Logged,
    NodeFactsChanged,
    NodeSilent,
    Notify,
    Published,
    Tick,
    TickAt,
    Unplaced,
)
from orlop.kernel.filters import kernel_filters, kernel_scorers
from orlop.kernel.kernel import Kernel
from orlop.kernel.loading import encode, load
from orlop.kernel.placement import NodeFilter, NodeScorer
from orlop.kernel.state import State
from orlop.model.clock import Now
from orlop.model.facts import NodeFacts
from orlop.model.log_entries import LogEntry
from orlop.model.messages import Epoch
from orlop.model.nodes import NodeInfo
from orlop.model.ports import PortSet
from orlop.model.resources import Resources
from orlop.model.tasks import Exit, Outcome, ProbeResult, Status, TaskState
from orlop.server.framework_run import Command, FrameworkRunner, read_object
from orlop.testing.checks import InvariantChecks, NotIdempotent, check_idempotent, ended_at_once
from orlop.testing.simulated_node import SimulatedNode

START_UTC_MS: Final = 1_700_000_000_000
STEPS_MAX: Final = 10_000
EPOCH: Final = Epoch(generation=1, revision=1)


class NeverSettles(AssertionError):
    """The cluster did not come to rest: some framework and some node answer each other for ever."""


class Cluster:
    """See the module. `frameworks`: instances, as the server would make them."""

    def __init__(
        self,
        *frameworks: Framework,
        filters: Iterable[NodeFilter] = (),
        scorers: Iterable[NodeScorer] = (),
        check_idempotence: bool = True,
    ) -> None:
        self.kernel = Kernel((*kernel_filters(), *filters), (*kernel_scorers(), *scorers))
        self.state = State(cluster_id="simulated", utc_ms=START_UTC_MS)
        self.now = Now(utc_ms=START_UTC_MS, monotonic_ms=0)
        self.nodes: dict[str, SimulatedNode] = {}
        self.log: list[LogEntry] = []
        self.published: list[Any] = []
        self.documents: dict[str, bytes] = {}
        self._check_idempotence = check_idempotence
        self._checks = InvariantChecks()
        self._node_of: dict[str, SimulatedNode] = {}
        self._news: dict[str, list[Status]] = {}
        self._runners: dict[str, FrameworkRunner] = {}
        self._changed: dict[str, Changed] = {}
        self._wakeups: dict[tuple[str, str], int] = {}
        self._ticks: list[int] = []
        self._runs = 0
        self._answers: dict[str, Any] = {}
        #: Tokens of commands that run.
        self._waiting: set[str] = set()
        for framework in frameworks:
            self.install(framework)

    # What a test does

    def install(self, framework: Framework) -> None:
        """Adds a framework, or replaces the one of the same name as a restart of the server would."""
        self._runners[framework.name] = FrameworkRunner(framework, self.kernel.explain)
        self._changed[framework.name] = Changed(everything=True, nodes=True)
        self._wakeups = {key: at for key, at in self._wakeups.items() if key[0] != framework.name}

    def restart(self, *frameworks: Framework) -> None:
        """Throws everything in memory away and loads the stored documents, as after a kill -9 or a change of leader.

        frameworks: those that run from then on; by default the same ones, made anew of their settings. Nodes that are
        lost stay so.
        """
        if not frameworks:
            frameworks = tuple(type(one.framework)(one.framework.settings) for one in self._runners.values())
        classes = {framework.name: type(framework) for framework in frameworks}
        loaded = load(
            sorted(self.documents.items()),
            lambda name, kind, object_id, data: read_object(classes[name], kind, object_id, data),
        )
        if loaded is not None:
            self.state = loaded
        self._runners.clear()
        self._changed.clear()
        self._wakeups.clear()
        self._ticks.clear()
        for framework in frameworks:
            self.install(framework)
        self._hello(*(node for node in self.nodes.values() if node.connected))

    def add_node(
        self,
        name: str,
        *,
        cpus: float = 4,
        mem: str = "8GiB",
        disk: str = "100GiB",
        ports: str = "31000-32000",
        runtimes: tuple[str, ...] = ("process", "docker"),
        **attributes: str,
    ) -> SimulatedNode:
        """A node that is ready at once. disk, mem: with their unit, "8GiB". attributes: what constraints look at."""
        (node,) = self._join([name], Resources(cpus=cpus, mem=mem, disk=disk), ports, runtimes, attributes)
        return node

    def add_nodes(
        self,
        count: int,
        *,
        prefix: str = "n",
        cpus: float = 4,
        mem: str = "8GiB",
        disk: str = "100GiB",
        ports: str = "31000-32000",
        runtimes: tuple[str, ...] = ("process", "docker"),
        **attributes: str,
    ) -> list[SimulatedNode]:
        """So many nodes that are ready at once, all alike: n1, n2 ... Names that are taken are left out."""
        free = (name for number in itertools.count(1) if (name := f"{prefix}{number}") not in self.nodes)
        names = list(itertools.islice(free, count))
        return self._join(names, Resources(cpus=cpus, mem=mem, disk=disk), ports, runtimes, attributes)

    def lose_node(self, name: str, *, gone: bool = True) -> None:
        """The node falls silent; `gone`: for so long that its tasks count as lost."""
        self.nodes[name].connected = False
        self.step(NodeSilent(node=name))
        if gone:
            self.step(NodeSilent(node=name, gone=True))

    def return_node(self, name: str) -> None:
        """The node is heard of again, with all that it still runs."""
        self._hello(self.nodes[name])

    def forget_node(self, name: str, cause: str = "") -> bool:
        """An operator says that it never comes back. False, and nothing happens, when it does not count as gone."""
        self.step(ForgetNode(node=name, cause=cause, token="forget"))  # noqa: S106
        return bool(self._answers.pop("forget"))

    def set_facts(self, name: str, facts: NodeFacts) -> None:
        """The node's agent tells what its engine knows beside the tasks."""
        self.step(NodeFactsChanged(node=name, facts=facts))

    def command(self, framework: str, value: Any) -> Any:
        """Runs a command and returns its reply. Raises Refused, NotPlaced."""
        token = f"command-{self._runs}"
        self._waiting.add(token)
        try:
            self._run(framework, [Command(token=token, value=value)])
        finally:
            self._waiting.discard(token)
        answer = self._answers.pop(token)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def settle(self) -> None:
        """Until nothing is left to do at this moment. Raises NeverSettles, NotIdempotent."""
        for _ in range(STEPS_MAX):
            self._wake_due()
            due = [name for name, changed in self._changed.items() if changed != Changed()]
            if not due:
                return
            for name in due:
                self._run(name, [])
        raise NeverSettles(f"still busy after {STEPS_MAX} rounds; last: {[str(one) for one in self.log[-5:]]}")

    def advance(self, seconds: float) -> None:
        """Moves the clock on, settling at each wake-up and delayed ask on the way."""
        self.settle()
        end = self.now.utc_ms + round(seconds * 1000)
        for _ in range(STEPS_MAX):
            at = min([*self._ticks, *self._wakeups.values(), end])
            if at >= end:
                break
            self._set_clock(max(at, self.now.utc_ms))
            self._fire()
            self.settle()
        else:
            raise NeverSettles(f"more than {STEPS_MAX} wake-ups within {seconds} s")
        self._set_clock(end)
        self._fire()
        self.settle()

    def start_task(self, task: Task) -> None:
        """Somebody starts what is prepared: a client of its runtime, or a restart policy of its own."""
        self._report(task.id, TaskState.RUNNING)

    def stop_task(self, task: Task, *, code: int = 0) -> None:
        """A run of a task that is kept (`Policies.keep_ended`) ends by itself: it is prepared again."""
        node, known = self._status_of(task.id)
        exit_ = Exit(outcome=Outcome.FINISHED if code == 0 else Outcome.FAILED, code=code)
        self._send(node, node.moved(task.id, TaskState.PREPARED, self.now.utc_ms, exit_, known.incarnation + 1))

    def end_task(self, task: Task, *, code: int = 0, outcome: Outcome | None = None, reason: str = "") -> None:
        """The task ends by itself."""
        kind = outcome or (Outcome.FINISHED if code == 0 else Outcome.FAILED)
        self._report(task.id, TaskState.REMOVED, Exit(outcome=kind, code=code, reason=reason))

    def report_running(self, task: Task) -> None:
        """For nodes whose `starts` said no."""
        self._report(task.id, TaskState.RUNNING)

    def report_stopped(self, task: Task) -> None:
        """For nodes whose `stops` said no."""
        self._report(task.id, TaskState.REMOVED, Exit(outcome=Outcome.KILLED))

    def report_probes(self, task: Task, *results: ProbeResult) -> None:
        """The agent's news of the task's health checks."""
        node, status = self._status_of(task.id)
        changed = attrs.evolve(status, sequence=status.sequence + 1, probes=results)
        self._send(node, changed)

    def set_health(self, task: Task, alive: bool, failures: int = 1) -> None:
        """All probes of the task succeed, or fail `failures` times in a row."""
        count = len(self.state.spec_of(task).probes)
        utc_ms = self.now.utc_ms
        good = ProbeResult(alive=True, first_success_utc_ms=utc_ms, last_success_utc_ms=utc_ms)
        bad = ProbeResult(
            alive=False, consecutive_failures=failures, last_failure_utc_ms=utc_ms, last_failure_cause="simulated"
        )
        self.report_probes(task, *([good if alive else bad] * count))

    def kill_task(self, task_id: str, reason: str = "operator") -> bool:
        """An operator's kill."""
        self.step(KillTask(task=task_id, reason=reason, token="kill"))  # noqa: S106
        return bool(self._answers.pop("kill"))

    # What a test looks at

    def view(self, framework: str) -> View:
        """What the framework sees now."""
        return self._runners[framework].view(self.state, self.now)

    def tasks(self, framework: str | None = None) -> list[Task]:
        """Recorded tasks in the order of asking."""
        found = [task for task in self.state.tasks.values() if framework in (None, task.framework)]
        return sorted(found, key=lambda task: task.sequence)

    def pending(self, framework: str | None = None) -> list[Task]:
        """Those that have no place yet; `explain` says why."""
        return [task for task in self.live(framework) if task.placement is None]

    def live(self, framework: str | None = None) -> list[Task]:
        return [task for task in self.tasks(framework) if task.live]

    def running(self, framework: str | None = None) -> list[Task]:
        return [task for task in self.tasks(framework) if task.running]

    def explain(self, task: Task) -> Explanation:
        return self.kernel.explain(self.state, task)

    # The machinery

    def step(self, *events: Event) -> None:
        """One batch through the kernel, committed at once."""
        self._release_all(self._commit(*events))

    def _commit(self, *events: Event) -> tuple[Effect, ...]:
        step = self.kernel.step(self.state, events, self.now, EPOCH)
        self._checks.step(self.state, step)
        self.state = step.state
        for key, document in step.puts.items():
            self.documents[key] = encode(document)
        for key in step.deletes:
            self.documents.pop(key, None)
        return step.effects

    def _release_all(self, effects: Iterable[Effect]) -> None:
        """What nodes answer to all of them is one step."""
        for effect in effects:
            self._release(effect)
        news, self._news = self._news, {}
        reports = [self.nodes[name].report(statuses) for name, statuses in news.items() if statuses]
        if reports:
            self.step(*reports)

    def _release(self, effect: Effect) -> None:
        match effect:
            case Assign():
                node = self.nodes[effect.node]
                statuses = list(node.assigned(assignments(effect), self.now.utc_ms))
                self._news.setdefault(effect.node, []).extend(statuses)
                self._node_of.update((status.task, node) for status in statuses)
            case Notify():
                self._note_changed(effect)
            case Answer():
                self._answers.setdefault(effect.token, effect.value)
            case Unplaced():
                if effect.cause in self._waiting:
                    self._answers[effect.cause] = NotPlaced(effect.key, effect.explanation)
            case Logged():
                self.log.extend(effect.entries)
            case Published():
                self.published.extend(effect.items)
            case TickAt():
                heapq.heappush(self._ticks, effect.utc_ms)

    def _note_changed(self, effect: Notify) -> None:
        before = self._changed.get(effect.framework)
        if before is not None:
            self._changed[effect.framework] = attrs.evolve(
                before,
                keys=before.keys | effect.keys,
                nodes=before.nodes or effect.nodes,
                rejected={**before.rejected, **effect.rejected},
            )

    def _run(self, name: str, commands: list[Command]) -> None:
        runner = self._runners[name]
        changed, self._changed[name] = self._changed[name], Changed()
        self._runs += 1
        result = runner.run(self.state, changed, commands, self.now, f"run-{self._runs}")
        for error in result.failures.values():
            raise error
        self._answers.update(result.refusals)
        for token, utc_ms in result.wakeups.items():
            self._wakeups.pop((name, token), None)
            if utc_ms is not None:
                self._wakeups[name, token] = utc_ms
        if result.actions is not None:
            effects = self._commit(result.actions)
            unfinished = any(at is not None and at <= self.now.utc_ms for at in result.wakeups.values())
            if self._check_idempotence and not unfinished and not ended_at_once(self.state, result.actions):
                self._runs += 1
                everything = Changed(everything=True, nodes=True)
                again = runner.run(self.state, everything, [], self.now, f"run-{self._runs}").actions
                if again is not None:
                    check_idempotent(self.state, name, again)
            self._release_all(effects)

    def _set_clock(self, utc_ms: int) -> None:
        passed = utc_ms - self.now.utc_ms
        self.now = Now(utc_ms=utc_ms, monotonic_ms=self.now.monotonic_ms + passed)

    def _fire(self) -> None:
        while self._ticks and self._ticks[0] <= self.now.utc_ms:
            heapq.heappop(self._ticks)
        self.step(Tick())
        self._wake_due()

    def _wake_due(self) -> None:
        for (name, token), at in sorted(self._wakeups.items()):
            if at <= self.now.utc_ms:
                del self._wakeups[name, token]
                before = self._changed[name]
                self._changed[name] = attrs.evolve(before, wakeups=before.wakeups | {token})

    # Nodes

    def _join(
        self,
        names: list[str],
        resources: Resources,
        ports: str,
        runtimes: tuple[str, ...],
        attributes: dict[str, str],
    ) -> list[SimulatedNode]:
        port_set = PortSet.parse(ports)
        made = [
            SimulatedNode(
                NodeInfo(
                    id=name,
                    name=name,
                    address=f"{name}.example",
                    resources=resources,
                    ports=port_set,
                    attributes=attributes,
                    runtimes=runtimes,
                )
            )
            for name in names
        ]
        self.nodes.update(zip(names, made, strict=True))
        self._hello(*made)
        return made

    def _hello(self, *nodes: SimulatedNode) -> None:
        for node in nodes:
            node.connected = True
        if nodes:
            self.step(*(node.hello() for node in nodes))

    def _status_of(self, task_id: str) -> tuple[SimulatedNode, Status]:
        node = self._node_of.get(task_id)
        if node is None:
            raise LookupError(f"no node has task {task_id}")
        return node, node.statuses[task_id]

    def _report(self, task_id: str, state: TaskState, exit_: Exit | None = None) -> None:
        node, _ = self._status_of(task_id)
        self._send(node, node.moved(task_id, state, self.now.utc_ms, exit_))

    def _send(self, node: SimulatedNode, status: Status) -> None:
        node.statuses[status.task] = status
        self.step(node.report([status]))


__all__ = ["Cluster", "NeverSettles", "NotIdempotent", "Refused", "SimulatedNode"]

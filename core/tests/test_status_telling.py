"""What a node tells of its tasks at once, and what together, while it starts many."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
from hypothesis import given
from hypothesis import strategies as st

from orlop.agent.decisions import Effect, Event, Save, SetTimer, Tell, TimerDue
from orlop.agent.runtimes.interface import Phase, Report
from orlop.agent.status_telling import (
    BURST_PASSING_TOLD_AFTER_MS,
    BURST_STARTS,
    BURST_TOLD_EVERY_MS,
    GATHERED,
    PASSED,
    PASSING_TOLD_AFTER_MS,
    RESEND,
    TOKENS,
)
from orlop.agent.worker import Worker
from orlop.model.clock import Now
from orlop.model.messages import Assignment, Assignments, Epoch, Received
from orlop.model.tasks import Desired, Exit, Outcome, Spec, Status, TaskState

SPEC = Spec(runtime="process", payload={"command": "true"})


class Node:
    """A worker on a clock, whose timers are its own."""

    def __init__(self) -> None:
        self.worker = Worker(["process"])
        self.now_ms = 1_000
        self.timers: dict[str, int] = {}
        self.told: list[Status] = []
        self.saved: dict[str, Status] = {}
        self._revision = 0

    def handle(self, event: Event) -> list[Status]:
        """What is told at once."""
        return self._carry_out(self.worker.handle(event, Now(self.now_ms, self.now_ms)))

    def assign(self, tasks: Iterable[str], desired: Desired = Desired.RUNNING) -> list[Status]:
        self._revision += 1
        items = tuple(Assignment(task=t, framework="f", key=t, name=t, spec=SPEC, desired=desired) for t in tasks)
        return self.handle(Assignments(epoch=Epoch(1, 1), revision=self._revision, full=False, items=items))

    def report(self, task: str, phase: Phase) -> list[Status]:
        exit_ = Exit(outcome=Outcome.FINISHED, code=0) if phase is Phase.ENDED else None
        return self.handle(Report(task=task, incarnation=1, phase=phase, exit=exit_))

    def confirm(self, told: Iterable[Status]) -> None:
        self.handle(Received(items=tuple((one.task, one.incarnation, one.sequence) for one in told)))

    def wait(self, ms: int) -> list[Status]:
        """What is told meanwhile."""
        until_ms, told = self.now_ms + ms, list[Status]()
        while due := sorted((at_ms, token) for token, at_ms in self.timers.items() if at_ms <= until_ms):
            self.now_ms, token = due[0]
            del self.timers[token]
            told += self.handle(TimerDue(token))
        self.now_ms = until_ms
        return told

    def _carry_out(self, effects: list[Effect]) -> list[Status]:
        told: list[Status] = []
        for effect in effects:
            match effect:
                case Save():
                    self.saved[effect.record.assignment.task] = effect.record.status
                case SetTimer() if effect.token in TOKENS:
                    assert effect.token not in self.timers, "one is enough"
                    self.timers[effect.token] = self.now_ms + effect.delay_ms
                case Tell():
                    for status in effect.statuses:
                        assert status == self.saved[status.task], "what is told is on disk, and the latest"
                    told += effect.statuses
        self.told += told
        return told


def states(told: Iterable[Status]) -> list[tuple[str, TaskState]]:
    return [(one.task, one.state) for one in told]


def bursting() -> tuple[Node, list[str]]:
    node, tasks = Node(), [f"t{number}" for number in range(BURST_STARTS + 2)]
    assert not node.assign(tasks)
    return node, tasks


def test_a_few_are_told_at_once() -> None:
    node = Node()
    node.assign(tasks := [f"t{number}" for number in range(BURST_STARTS - 1)])
    for task in tasks:
        assert states(node.report(task, Phase.RUNNING)) == [(task, TaskState.RUNNING)]
        assert states(node.report(task, Phase.ENDED)) == [(task, TaskState.REMOVED)]


def test_while_many_start_news_are_told_together_and_the_latest_only() -> None:
    node, tasks = bursting()
    assert not node.report(tasks[0], Phase.RUNNING)
    node.now_ms += 10
    assert not node.report(tasks[0], Phase.ENDED)
    assert not node.report(tasks[1], Phase.RUNNING)
    assert not node.wait(BURST_TOLD_EVERY_MS - 11)
    assert states(node.wait(1)) == [(tasks[0], TaskState.REMOVED), (tasks[1], TaskState.RUNNING)]
    assert not node.wait(BURST_TOLD_EVERY_MS), "nothing is new"


def test_when_few_are_left_all_is_told() -> None:
    node, tasks = bursting()
    assert not node.report(tasks[0], Phase.RUNNING)
    assert not node.report(tasks[1], Phase.ENDED)
    told = node.report(tasks[2], Phase.RUNNING)
    assert states(told) == [
        (tasks[0], TaskState.RUNNING),
        (tasks[1], TaskState.REMOVED),
        (tasks[2], TaskState.RUNNING),
    ]
    assert states(node.report(tasks[3], Phase.RUNNING)) == [(tasks[3], TaskState.RUNNING)]


def test_those_that_are_stopped_are_no_starts_any_more() -> None:
    node, tasks = bursting()
    assert not node.report(tasks[0], Phase.RUNNING)
    told = node.assign(tasks[1:4], Desired.STOPPED)
    assert states(told) == [(tasks[0], TaskState.RUNNING), *((task, TaskState.STOPPING) for task in tasks[1:4])]


def test_where_a_task_is_on_its_way_is_told_later_while_many_start() -> None:
    node, tasks = bursting()
    assert not node.wait(BURST_PASSING_TOLD_AFTER_MS - 1)
    assert states(node.wait(BURST_TOLD_EVERY_MS)) == [(task, TaskState.PREPARING) for task in tasks]
    for task in tasks[3:]:
        node.report(task, Phase.RUNNING)
    node.confirm(node.told)
    assert not node.wait(PASSING_TOLD_AFTER_MS), "that has been told"
    assert not node.report(tasks[1], Phase.STARTING)
    assert not node.wait(PASSING_TOLD_AFTER_MS - 1)
    assert states(node.wait(1)) == [(tasks[1], TaskState.STARTING)], "as ever"


REPORTS = st.tuples(st.integers(0, 39), st.sampled_from([Phase.STARTING, Phase.RUNNING, Phase.ENDED]))


@attrs.frozen
class Step:
    """assigned: how many tasks more. confirm: what has been told so far."""

    assigned: int
    reports: list[tuple[int, Phase]]
    wait_ms: int
    confirm: bool


STEPS = st.builds(
    Step, st.integers(0, 40), st.lists(REPORTS, max_size=30), st.integers(0, 1_500), st.booleans()
)  # fmt: skip


@given(st.lists(STEPS, max_size=12))
def test_sooner_or_later_all_that_is_so_has_been_told(steps: list[Step]) -> None:
    node, assigned = Node(), 0
    for step in steps:
        node.assign(f"t{number}" for number in range(assigned, min(40, assigned + step.assigned)))
        assigned = min(40, assigned + step.assigned)
        for number, phase in step.reports:
            if number < assigned:
                node.report(f"t{number}", phase)
        node.wait(step.wait_ms)
        if step.confirm:
            node.confirm(node.told)
    node.wait(BURST_PASSING_TOLD_AFTER_MS + BURST_TOLD_EVERY_MS)
    latest = {status.task: status for status in node.told}
    assert latest == node.saved
    node.confirm(node.told)
    node.timers = {token: at_ms for token, at_ms in node.timers.items() if token != RESEND}
    told = len(node.told)
    node.wait(10_000)
    assert len(node.told) == told, "and once"
    assert not {GATHERED, PASSED} & node.timers.keys()

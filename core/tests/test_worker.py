"""The node's decisions, without a clock, a process or a socket."""

from __future__ import annotations

from typing import TypeVar

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orlop.agent.decisions import (
    Drop,
    Effect,
    Event,
    KillNow,
    ProbesChanged,
    Remove,
    Save,
    SetTimer,
    Signal,
    Start,
    Tell,
    TimerDue,
    Watch,
)
from orlop.agent.runtimes.interface import Phase, Report, Snapshot, Unavailable
from orlop.agent.status_telling import PASSED
from orlop.agent.task_record import TaskRecord
from orlop.agent.worker import Worker
from orlop.model.clock import Now
from orlop.model.documents import from_bytes, to_bytes
from orlop.model.messages import Assignment, Assignments, Epoch, Received
from orlop.model.tasks import STATE_ORDER, Desired, Exit, Outcome, Policies, ProbeResult, Spec, Status, TaskState

NOW = Now(1_000, 1_000)
EPOCH = Epoch(1, 1)
SPEC = Spec(runtime="process", payload={"command": "sleep 1"}, policies=Policies(kill_grace_ms=3_000))


def assignment(task: str = "t1", desired: Desired = Desired.RUNNING, spec: Spec = SPEC) -> Assignment:
    return Assignment(task=task, framework="f", key=task, name=task, spec=spec, desired=desired)


def assigned(*items: Assignment, full: bool = False, revision: int = 5, epoch: Epoch = EPOCH) -> Assignments:
    return Assignments(epoch=epoch, revision=revision, full=full, items=items)


def running(task: str = "t1", incarnation: int = 1) -> Report:
    return Report(task=task, incarnation=incarnation, phase=Phase.RUNNING, external_id="42")


def ended(task: str = "t1", code: int = 0, outcome: Outcome = Outcome.FINISHED) -> Report:
    return Report(task=task, incarnation=1, phase=Phase.ENDED, exit=Exit(outcome=outcome, code=code))


def make(*events: Event) -> Worker:
    worker = Worker(["process"])
    for event in events:
        worker.handle(event, NOW)
    return worker


E = TypeVar("E", bound=Effect)


def of(effects: list[Effect], kind: type[E]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]


def told(effects: list[Effect]) -> list[Status]:
    return [status for effect in effects if isinstance(effect, Tell) for status in effect.statuses]


def test_a_record_is_saved_before_the_task_is_started() -> None:
    effects = make().handle(assigned(assignment()), NOW)
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Save) < kinds.index(Start)


def test_a_state_on_the_way_is_told_only_when_it_lasts() -> None:
    """Each status is a commit at the server, and a short task would cost it four of them."""
    worker = make()
    effects = worker.handle(assigned(assignment(), assignment("t2")), NOW)
    assert not told(effects)
    assert [effect.token for effect in of(effects, SetTimer)].count(PASSED) == 1
    starting = Report(task="t1", incarnation=1, phase=Phase.STARTING, external_id="")
    assert not of(worker.handle(starting, NOW), Tell), "one timer is enough"
    assert [status.state for status in told(worker.handle(running(), NOW))] == [TaskState.RUNNING]
    later = told(worker.handle(TimerDue(PASSED), NOW))
    assert [(status.task, status.state) for status in later] == [("t2", TaskState.PREPARING)]
    assert not told(worker.handle(TimerDue(PASSED), NOW))
    again = worker.handle(Report(task="t2", incarnation=1, phase=Phase.STARTING), NOW)
    assert [effect.token for effect in of(again, SetTimer)].count(PASSED) == 1
    assert [status.state for status in told(worker.handle(TimerDue(PASSED), NOW))] == [TaskState.STARTING]


def test_a_task_that_was_stopped_before_its_node_heard_of_it_is_gone_at_once() -> None:
    worker = make(Snapshot(runtime="process", reports=()))
    effects = worker.handle(assigned(assignment(desired=Desired.STOPPED), full=True), NOW)
    assert not of(effects, Start)
    assert [(status.state, status.exit and status.exit.outcome) for status in told(effects)] == [
        (TaskState.REMOVED, Outcome.KILLED)
    ]


def test_one_that_the_runtime_may_have_is_stopped_until_it_is_known_that_it_has_not() -> None:
    worker = make(Snapshot(runtime="process", reports=()), Unavailable(runtime="process", reason="restarting"))
    effects = worker.handle(assigned(assignment(desired=Desired.STOPPED), full=True), NOW)
    assert [status.state for status in told(effects)][-1] is TaskState.STOPPING
    assert of(effects, Signal)
    effects = worker.handle(Snapshot(runtime="process", reports=()), NOW)
    assert [status.state for status in told(effects)] == [TaskState.REMOVED]


def test_a_deposed_leader_is_known_as_such() -> None:
    worker = make(assigned(assignment(), epoch=Epoch(1, 7)))
    assert worker.is_deposed(Epoch(1, 6))
    assert not worker.is_deposed(Epoch(1, 7))
    assert not worker.is_deposed(Epoch(2, 1)), "a later generation counts more"


def test_the_same_assignment_again_starts_nothing() -> None:
    worker = make(assigned(assignment()))
    assert not of(worker.handle(assigned(assignment(), full=True), NOW), Start)


def test_running_is_reported_and_watched() -> None:
    effects = make(assigned(assignment())).handle(running(), NOW)
    assert [(status.state, status.external_id) for status in told(effects)] == [(TaskState.RUNNING, "42")]
    assert of(effects, Watch)


def test_an_end_is_reported_until_it_is_acknowledged() -> None:
    worker = make(assigned(assignment()), running())
    effects = worker.handle(ended(code=7, outcome=Outcome.FAILED), NOW)
    (status,) = told(effects)
    assert (status.state, status.exit) == (TaskState.REMOVED, Exit(outcome=Outcome.FAILED, code=7))
    assert of(effects, Remove) == [Remove("process", "t1")]
    assert told(worker.handle(TimerDue("resend"), NOW)) == [status]
    dropped = worker.handle(Received(items=(("t1", 1, status.sequence),)), NOW)
    assert of(dropped, Drop) == [Drop("t1")]
    assert not worker.records


def test_an_acknowledgement_of_older_news_drops_nothing() -> None:
    worker = make(assigned(assignment()), running())
    (status,) = told(worker.handle(ended(), NOW))
    assert not of(worker.handle(Received(items=(("t1", 1, status.sequence - 1),)), NOW), Drop)
    assert worker.records


def test_stopping_is_polite_first_and_sure_later() -> None:
    worker = make(assigned(assignment()), running())
    effects = worker.handle(assigned(assignment(desired=Desired.STOPPED)), NOW)
    assert of(effects, Signal) == [Signal("process", "t1", "SIGTERM")]
    assert SetTimer("t1", 3_000) in effects
    late = worker.handle(TimerDue("t1"), NOW)
    assert of(late, KillNow) == [KillNow("process", "t1")]
    (status,) = told(worker.handle(ended(code=0), NOW))
    assert status.exit is not None
    assert status.exit.outcome is Outcome.KILLED


def test_a_task_told_to_stop_while_it_was_starting_is_stopped_when_it_comes_up() -> None:
    worker = make(assigned(assignment()), assigned(assignment(desired=Desired.STOPPED)))
    assert of(worker.handle(running(), NOW), Signal)


def test_a_lower_epoch_is_ignored() -> None:
    worker = make(assigned(assignment(), epoch=Epoch(2, 1)))
    late = worker.handle(assigned(assignment(desired=Desired.STOPPED), epoch=Epoch(1, 99)), NOW)
    assert not late


def test_what_a_full_list_of_the_same_lineage_leaves_out_is_stopped() -> None:
    worker = make(assigned(assignment(), revision=5), running())
    assert of(worker.handle(assigned(full=True, revision=6), NOW), Signal)


def test_what_a_restored_state_does_not_know_is_an_orphan_and_goes_on() -> None:
    worker = make(assigned(assignment(), revision=5), running())
    assert not of(worker.handle(assigned(full=True, revision=3), NOW), Signal)
    assert not of(worker.handle(assigned(full=True, revision=9, epoch=Epoch(2, 1)), NOW), Signal)
    assert worker.records["t1"].orphan


def test_an_orphan_stays_one_however_far_the_restored_state_goes() -> None:
    worker = make(assigned(assignment(), revision=5), running(), assigned(full=True, revision=3))
    for revision in (5, 6, 700):
        assert not of(worker.handle(assigned(full=True, revision=revision), NOW), Signal)
    assert not worker.handle(assigned(assignment(), revision=701), NOW), "a state that names it has it back"
    assert not worker.records["t1"].orphan
    assert of(worker.handle(assigned(full=True, revision=702), NOW), Signal)


def test_a_snapshot_without_a_running_task_means_that_it_is_lost() -> None:
    worker = make(assigned(assignment()), running())
    (status,) = told(worker.handle(Snapshot(runtime="process", reports=()), NOW))
    assert status.exit is not None
    assert status.exit.outcome is Outcome.LOST


def test_what_is_left_of_an_ended_task_is_removed_when_nobody_knows_it_any_more() -> None:
    named, unknown, alive = ended("t1"), ended("t2"), running("t3")
    worker = make(Snapshot(runtime="process", reports=(named, unknown, alive)))
    assert not of(worker.handle(assigned(), NOW), Remove), "not a full list"
    assert of(worker.handle(assigned(assignment("t1"), full=True), NOW), Remove) == [Remove("process", "t2")]
    assert not of(worker.handle(assigned(assignment("t1"), full=True), NOW), Remove)


def test_a_snapshot_without_a_task_that_never_started_starts_it_again() -> None:
    worker = make(assigned(assignment()))
    assert of(worker.handle(Snapshot(runtime="process", reports=()), NOW), Start)


def test_a_snapshot_of_a_task_that_was_made_and_never_started_starts_it() -> None:
    made = Report(task="t1", incarnation=1, phase=Phase.PREPARING, external_id="42")
    for known in (Phase.PREPARING, Phase.STARTING):
        worker = make(assigned(assignment()), attrs.evolve(made, phase=known))
        assert of(worker.handle(Snapshot(runtime="process", reports=(made,)), NOW), Start) == [Start(assignment())]
    stopping = make(assigned(assignment()), made, assigned(assignment(desired=Desired.STOPPED)))
    assert not of(stopping.handle(Snapshot(runtime="process", reports=(made,)), NOW), Start)


def test_an_unknown_runtime_is_an_error_of_the_task() -> None:
    spec = attrs.evolve(SPEC, runtime="wasm")
    (status,) = told(make().handle(assigned(assignment(spec=spec)), NOW))
    assert status.exit is not None
    assert status.exit.outcome is Outcome.ERROR


def test_a_failed_probe_never_kills() -> None:
    worker = make(assigned(assignment()), running())
    results = (ProbeResult(alive=False, consecutive_failures=99),)
    effects = worker.handle(ProbesChanged(task="t1", incarnation=1, results=results), NOW)
    assert told(effects)[0].probes == results
    assert not of(effects, Signal)
    assert not of(effects, KillNow)


def test_a_restarted_agent_goes_on_where_its_records_end() -> None:
    worker = make(assigned(assignment("t1"), assignment("t2")), running("t1"), running("t2"))
    worker.handle(assigned(assignment("t2", Desired.STOPPED)), NOW)
    stored = [from_bytes(to_bytes(record), TaskRecord, "record") for record in worker.records.values()]
    again = Worker(["process"], stored, EPOCH)
    effects = again.handle(Snapshot(runtime="process", reports=(running("t1"), running("t2"))), NOW)
    assert of(effects, Signal) == [Signal("process", "t2", "SIGTERM")]
    assert not of(effects, Start)


class AnyOrder(RuleBasedStateMachine):
    """Events in any order, repeated and stale ones too: states only move forward, and nothing starts twice."""

    tasks = st.sampled_from(["a", "b", "c"])

    @initialize()
    def begin(self) -> None:
        self.worker = Worker(["process"])
        self.started: dict[str, int] = {}
        self.seen: dict[str, Status] = {}
        self.gone: set[str] = set()

    def feed(self, event: Event) -> None:
        for effect in self.worker.handle(event, NOW):
            match effect:
                case Start():
                    self.started[effect.assignment.task] = self.started.get(effect.assignment.task, 0) + 1
                case Save():
                    self.moved(effect.record.status)

    def moved(self, status: Status) -> None:
        before = self.seen.get(status.task)
        if before is not None and status.task not in self.gone:
            assert STATE_ORDER[status.state] >= STATE_ORDER[before.state]
            assert status.sequence >= before.sequence
        self.gone.discard(status.task)
        self.seen[status.task] = status

    @rule(task=tasks, desired=st.sampled_from([Desired.RUNNING, Desired.STOPPED]), full=st.booleans())
    def assign(self, task: str, desired: Desired, full: bool) -> None:
        self.feed(assigned(assignment(task, desired), full=full))

    @rule(task=tasks)
    def report_running(self, task: str) -> None:
        self.feed(running(task))

    @rule(task=tasks, code=st.integers(0, 3))
    def report_ended(self, task: str, code: int) -> None:
        self.feed(ended(task, code, Outcome.FAILED if code else Outcome.FINISHED))

    @rule(known=st.booleans())
    def snapshot(self, known: bool) -> None:
        live = [record.assignment.task for record in self.worker.records.values() if record.live]
        self.feed(Snapshot(runtime="process", reports=tuple(map(running, live)) if known else ()))

    @rule(task=tasks)
    def timer(self, task: str) -> None:
        self.feed(TimerDue(task))

    @rule(task=tasks, back=st.integers(0, 2))
    def acknowledge(self, task: str, back: int) -> None:
        status = self.seen.get(task)
        if status is not None:
            self.feed(Received(items=((task, status.incarnation, status.sequence - back),)))
            if task not in self.worker.records:
                self.gone.add(task)

    @invariant()
    def ends_say_how(self) -> None:
        for record in getattr(self, "worker", Worker([])).records.values():
            assert record.live or record.status.exit is not None


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

"""What becomes of tasks whose node is cut off, stopped or drained: each task's own policy decides."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.agent.decisions import (
    Effect,
    KillNow,
    ServerAway,
    ServerHere,
    SetTimer,
    Signal,
    Start,
    TimerDue,
)
from orlop.agent.runtimes.interface import Phase, Report, Snapshot
from orlop.agent.task_record import TaskRecord
from orlop.agent.worker import Worker
from orlop.framework import Action, Ask, Framework, PartitionPolicy, Policies, Process, Resources, View
from orlop.kernel.events import DrainNode, NodeLeaves, NodeSilent
from orlop.model.clock import Now
from orlop.model.documents import from_bytes, to_bytes
from orlop.model.messages import Assignment, Assignments, Epoch
from orlop.model.nodes import NodeState
from orlop.model.tasks import Desired, Exit, Outcome, Spec, Task, TaskState
from orlop.testing.harness import Cluster

POLICIES = {
    "usual": PartitionPolicy(),
    "soon": PartitionPolicy(replace_after_ms=20_000),
    "at-once": PartitionPolicy(replace_after_ms=0),
    "late": PartitionPolicy(replace_after_ms=90_000),
    "keep": PartitionPolicy(keep=True),
}


class OneOfEach(Framework):
    """One task for each policy, which is asked for again when it is lost."""

    name = "each"

    def reconcile(self, view: View) -> Iterator[Action]:
        for key, policy in POLICIES.items():
            if key not in view.live:
                needs = Resources(cpus=0.1, mem="32MiB")
                yield Ask(key, run=Process("sleep 1000"), needs=needs, policies=Policies(partition=policy))


def cluster_of(*nodes: str) -> Cluster:
    cluster = Cluster(OneOfEach())
    for name in nodes:
        cluster.add_node(name)
    cluster.settle()
    assert len(cluster.running()) == len(POLICIES)
    return cluster


def silence(cluster: Cluster, node: str, silent_ms: int, gone: bool = False) -> set[str]:
    """The node falls silent for so long; the keys of the tasks that are lost by it."""
    before = {task.key: task.id for task in cluster.live()}
    cluster.nodes[node].connected = False
    cluster.step(NodeSilent(node=node, silent_ms=silent_ms, gone=gone))
    return {key for key, task_id in before.items() if not cluster.state.tasks[task_id].live}


def of(cluster: Cluster, key: str) -> Task:
    return cluster.view("each").live[key]


def test_each_task_is_lost_at_its_own_time() -> None:
    cluster = cluster_of("n1")
    assert silence(cluster, "n1", 15_000) == {"at-once"}
    assert all(of(cluster, key).unreachable for key in ("usual", "soon", "late", "keep"))
    assert silence(cluster, "n1", 20_000) == {"soon"}
    assert silence(cluster, "n1", 60_000, gone=True) == {"usual"}
    assert silence(cluster, "n1", 90_000, gone=True) == {"late"}
    assert silence(cluster, "n1", 10**9, gone=True) == set()
    kept = of(cluster, "keep")
    assert (kept.state, kept.unreachable) == (TaskState.RUNNING, True)
    lost = [task for task in cluster.tasks() if task.key == "soon"][-1]
    assert lost.status.exit == Exit(outcome=Outcome.LOST, reason="node n1 is unreachable")


def test_what_was_lost_runs_elsewhere_and_what_was_kept_is_found_again() -> None:
    cluster = cluster_of("n1")
    before = {task.key: task.id for task in cluster.live()}
    cluster.add_node("n2")
    silence(cluster, "n1", 60_000, gone=True)
    cluster.settle()
    assert {key for key in POLICIES if of(cluster, key).node == "n2"} == {"usual", "soon", "at-once"}
    cluster.return_node("n1")
    cluster.settle()
    assert {key: of(cluster, key).id == before[key] for key in POLICIES} == {
        "usual": False, "soon": False, "at-once": False, "late": True, "keep": True
    }  # fmt: skip
    assert not any(task.unreachable for task in cluster.live())
    assert cluster.state.node("n1").state is NodeState.READY  # type: ignore[union-attr]


def test_a_kept_task_of_a_node_that_never_comes_back_can_be_given_up() -> None:
    cluster = cluster_of("n1")
    silence(cluster, "n1", 60_000, gone=True)
    kept = of(cluster, "keep")
    assert cluster.kill_task(kept.id, "the machine burnt down")
    ended = cluster.state.tasks[kept.id]
    assert ended.status.exit is not None
    assert (ended.status.exit.outcome, ended.status.exit.reason) == (
        Outcome.LOST,
        "the machine burnt down; its node n1 is gone",
    )
    cluster.add_node("n2")
    cluster.settle()
    assert of(cluster, "keep").node == "n2"


@given(st.lists(st.tuples(st.integers(0, 200_000), st.booleans()), max_size=6))
def test_no_silence_breaks_an_invariant_or_loses_what_is_kept(silences: list[tuple[int, bool]]) -> None:
    cluster = cluster_of("n1", "n2")
    kept = of(cluster, "keep").id
    for silent_ms, gone in silences:
        for node in ("n1", "n2"):
            cluster.step(NodeSilent(node=node, silent_ms=silent_ms, gone=gone))
    assert cluster.state.tasks[kept].live
    for node in ("n1", "n2"):
        cluster.return_node(node)
    cluster.settle()
    assert len(cluster.running()) == len(POLICIES)


# --- a planned stop ---


def test_nothing_new_is_put_on_a_node_whose_agent_was_stopped() -> None:
    cluster = cluster_of("n1")
    cluster.nodes["n1"].connected = False
    cluster.step(NodeLeaves(node="n1"))
    assert len(cluster.running()) == len(POLICIES), "what runs goes on"
    victim = of(cluster, "usual")
    cluster.end_task(victim, code=1)
    cluster.settle()
    waiting = of(cluster, "usual")
    assert waiting.state is TaskState.PENDING
    assert "its agent was stopped (1)" in str(cluster.explain(waiting))
    cluster.return_node("n1")
    cluster.settle()
    assert of(cluster, "usual").running
    assert [entry.type for entry in cluster.log if entry.type.startswith("node.")] == ["node.ready", "node.away"]


# --- draining ---


def test_what_runs_on_a_drained_node_is_stopped_at_its_deadline() -> None:
    cluster = cluster_of("n1")
    cluster.step(DrainNode(node="n1", drained=True, within_ms=600_000, cause="alice"))
    cluster.add_node("n2")
    cluster.advance(599)
    assert {task.node for task in cluster.running()} == {"n1"}
    cluster.advance(2)
    assert {task.node for task in cluster.running()} == {"n2"}
    node = cluster.state.node("n1")
    assert node is not None
    assert (node.drained, node.drain_at_utc_ms) == (True, 0)
    ended = [task for task in cluster.tasks() if task.node == "n1"]
    assert {task.desired_reason for task in ended} == {"node n1 is drained"}
    assert cluster.state.due_utc_ms == 0, "nothing is waited for any more"


@pytest.mark.parametrize("within_ms", [None, 600_000])
def test_a_deadline_can_be_taken_back(within_ms: int | None) -> None:
    cluster = cluster_of("n1")
    cluster.step(DrainNode(node="n1", drained=True, within_ms=600_000))
    cluster.advance(300)
    cluster.step(DrainNode(node="n1", drained=within_ms is not None, within_ms=within_ms))
    cluster.advance(400)
    assert len(cluster.running()) == len(POLICIES)
    cluster.advance(400)
    assert len(cluster.running()) == (0 if within_ms is not None else len(POLICIES))


def test_a_drain_without_a_deadline_stops_nothing() -> None:
    cluster = cluster_of("n1")
    cluster.step(DrainNode(node="n1", drained=True))
    cluster.advance(10**6)
    assert len(cluster.running()) == len(POLICIES)


def test_at_once_is_a_deadline_too() -> None:
    cluster = cluster_of("n1")
    cluster.add_node("n2")
    cluster.step(DrainNode(node="n1", drained=True, within_ms=0))
    cluster.settle()
    assert {task.node for task in cluster.running()} == {"n2"}


def test_a_deadline_outlives_the_server_and_the_nodes_next_hello() -> None:
    cluster = cluster_of("n1")
    cluster.add_node("n2")
    cluster.step(DrainNode(node="n1", drained=True, within_ms=600_000))
    cluster.restart(OneOfEach())
    assert dict(cluster.state.draining) == {"n1": cluster.now.utc_ms + 600_000}
    cluster.advance(601)
    assert {task.node for task in cluster.running()} == {"n2"}


# --- the node's side ---

NOW = Now(1_000, 1_000)
EPOCH = Epoch(1, 1)


def assignment(task: str, stop_after_ms: int | None, desired: Desired = Desired.RUNNING) -> Assignment:
    policies = Policies(partition=PartitionPolicy(stop_after_ms=stop_after_ms), kill_grace_ms=3_000)
    spec = Spec(runtime="process", payload={"command": "sleep 1"}, policies=policies)
    return Assignment(task=task, framework="f", key=task, name=task, spec=spec, desired=desired)


def running(task: str) -> Report:
    return Report(task=task, incarnation=1, phase=Phase.RUNNING, external_id="42")


def worker() -> Worker:
    """With a session, a task that must not run alone and one that may."""
    made = Worker(["process"])
    made.handle(ServerHere(), NOW)
    items = (assignment("bound", 30_000), assignment("free", None))
    made.handle(Assignments(epoch=EPOCH, revision=5, items=items), NOW)
    for task in ("bound", "free"):
        made.handle(running(task), NOW)
    return made


def signalled(effects: list[Effect]) -> list[str]:
    return [effect.task for effect in effects if isinstance(effect, Signal)]


def test_a_node_that_is_alone_stops_only_what_may_not_run_alone() -> None:
    one = worker()
    assert one.handle(ServerAway(), NOW) == [SetTimer("alone/1/bound", 30_000)]
    effects = one.handle(TimerDue("alone/1/bound"), NOW)
    assert signalled(effects) == ["bound"]
    assert SetTimer("bound", 3_000) in effects
    assert one.handle(TimerDue("bound"), NOW)[0] == KillNow("process", "bound")
    one.handle(Report(task="bound", incarnation=1, phase=Phase.ENDED, exit=Exit(outcome=Outcome.FAILED)), NOW)
    exit_ = one.records["bound"].status.exit
    assert exit_ is not None
    assert (exit_.outcome, exit_.reason) == (
        Outcome.KILLED,
        "no server for 30 s, for which its policy does not let it run",
    )
    assert one.records["free"].status.state is TaskState.RUNNING


def test_a_server_that_comes_back_in_time_is_enough() -> None:
    one = worker()
    one.handle(ServerAway(), NOW)
    one.handle(ServerHere(), NOW)
    assert not one.handle(TimerDue("alone/1/bound"), NOW)


def test_a_timer_of_an_earlier_time_alone_says_nothing_of_this_one() -> None:
    one = worker()
    one.handle(ServerAway(), NOW)
    one.handle(ServerHere(), NOW)
    assert one.handle(ServerAway(), NOW) == [SetTimer("alone/2/bound", 30_000)]
    assert not one.handle(TimerDue("alone/1/bound"), NOW)
    assert signalled(one.handle(TimerDue("alone/2/bound"), NOW)) == ["bound"]


def test_sessions_that_end_before_a_welcome_do_not_begin_the_time_alone_anew() -> None:
    one = worker()
    assert one.handle(ServerAway(), NOW) == [SetTimer("alone/1/bound", 30_000)]
    items = (assignment("late", 10_000),)
    one.handle(Assignments(epoch=EPOCH, revision=6, items=items), NOW)
    assert SetTimer("alone/1/late", 10_000) in one.handle(ServerAway(), NOW)
    assert not [effect for effect in one.handle(ServerAway(), NOW) if isinstance(effect, SetTimer)]
    assert signalled(one.handle(TimerDue("alone/1/bound"), NOW)) == ["bound"]


def test_a_server_that_comes_back_too_late_does_not_take_the_stop_back() -> None:
    one = worker()
    one.handle(ServerAway(), NOW)
    one.handle(TimerDue("alone/1/bound"), NOW)
    one.handle(ServerHere(), NOW)
    items = (assignment("bound", 30_000), assignment("free", None))
    one.handle(Assignments(epoch=EPOCH, revision=6, full=True, items=items), NOW)
    assert one.handle(TimerDue("bound"), NOW)[0] == KillNow("process", "bound")


def test_a_restarted_agent_that_finds_no_server_counts_again() -> None:
    stored = [from_bytes(to_bytes(record), TaskRecord, "record") for record in worker().records.values()]
    again = Worker(["process"], stored, EPOCH)
    assert again.handle(ServerAway(), NOW) == [SetTimer("alone/1/bound", 30_000), SetTimer("resend", 2_000)]
    again.handle(Snapshot(runtime="process", reports=(running("bound"), running("free"))), NOW)
    assert signalled(again.handle(TimerDue("alone/1/bound"), NOW)) == ["bound"]
    stored = [from_bytes(to_bytes(record), TaskRecord, "record") for record in again.records.values()]
    third = Worker(["process"], stored, EPOCH)
    effects = third.handle(Snapshot(runtime="process", reports=(running("bound"), running("free"))), NOW)
    assert signalled(effects) == ["bound"], "it remembers that it was stopping it"


def starts(effects: list[Effect]) -> list[str]:
    return [effect.assignment.task for effect in effects if isinstance(effect, Start)]


def restarted_while_preparing(report: Phase | None) -> Worker:
    """An agent that comes back, and finds its two tasks not started, or not there at all."""
    before = Worker(["process"])
    before.handle(ServerHere(), NOW)
    items = (assignment("bound", 30_000), assignment("free", None))
    assert starts(before.handle(Assignments(epoch=EPOCH, revision=5, items=items), NOW)) == ["bound", "free"]
    again = Worker(["process"], before.records.values(), EPOCH)
    again.handle(ServerAway(), NOW)
    reports = [Report(task=task, incarnation=1, phase=report) for task in ("bound", "free")] if report else []
    assert starts(again.handle(Snapshot(runtime="process", reports=tuple(reports)), NOW)) == ["free"]
    return again


@pytest.mark.parametrize("report", [None, Phase.PREPARING])
def test_what_may_not_run_alone_is_not_started_before_a_server_wants_it(report: Phase | None) -> None:
    """Its node may have been away for so long that another one was started in its place."""
    one = restarted_while_preparing(report)
    one.handle(ServerHere(), NOW)
    items = (assignment("bound", 30_000), assignment("free", None))
    full = Assignments(epoch=EPOCH, revision=6, items=items, full=True)
    assert starts(one.handle(full, NOW)) == ["bound"]
    assert starts(one.handle(attrs.evolve(full, revision=7), NOW)) == []


@pytest.mark.parametrize("report", [None, Phase.PREPARING])
@pytest.mark.parametrize("how", ["not named", "stopped", "alone"])
def test_what_waits_for_a_server_can_be_stopped(report: Phase | None, how: str) -> None:
    one = restarted_while_preparing(report)
    if how == "alone":
        effects = one.handle(TimerDue("alone/1/bound"), NOW)
    else:
        one.handle(ServerHere(), NOW)
        stopped = (assignment("bound", 30_000, Desired.STOPPED),) if how == "stopped" else ()
        items = (*stopped, assignment("free", None))
        effects = one.handle(Assignments(epoch=EPOCH, revision=6, items=items, full=True), NOW)
    assert starts(effects) == []
    if report is None:  # nobody is there to end: that would be waited for for ever
        assert signalled(effects) == []
        assert one.records["bound"].status.state is TaskState.REMOVED
    else:
        assert signalled(effects) == ["bound"]
        assert one.records["bound"].status.state is TaskState.STOPPING


def test_specs_without_a_policy_are_stored_as_they_were() -> None:
    assert to_bytes(Policies()) == b'{"v":1}'
    assert b"partition" not in to_bytes(Spec(runtime="process", payload={}, policies=Policies(kill_grace_ms=1)))

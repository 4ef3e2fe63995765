"""Keys that are asked for once for all time: their tasks' ids follow from the keys, so that none is made twice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orlop.framework import Action, Ask, Changed, Framework, Outcome, Process, Resources, Task, View
from orlop.kernel.events import AgentStatuses
from orlop.model.tasks import Status, TaskState
from orlop.testing.harness import Cluster


class Runs(Framework):
    """Asks for what it is told."""

    name = "runs"

    def handle(self, view: View, changed: Changed) -> Iterable[Action]:
        return ()

    def command(self, view: View, command: Any) -> Iterable[Action]:
        key, once = command
        yield Ask(key, run=Process("work"), needs=Resources(cpus=0.1, mem="16MiB"), once=once)


def make(*keys: str, nodes: int = 1, once: bool = True) -> Cluster:
    cluster = Cluster(Runs())
    for number in range(nodes):
        cluster.add_node(f"n{number}")
    for key in keys:
        ask(cluster, key, once=once)
    return cluster


def ask(cluster: Cluster, key: str, *, once: bool = True) -> None:
    cluster.command("runs", (key, once))
    cluster.settle()


def report(cluster: Cluster, task: str, state: TaskState) -> None:
    """Node n0 says that of a task that it had before."""
    status = Status(task=task, state=state, incarnation=1, sequence=1, at_utc_ms=cluster.now.utc_ms)
    cluster.step(AgentStatuses(session="session-n0", node="n0", statuses=(status,)))
    cluster.settle()


def only(cluster: Cluster) -> Task:
    (task,) = cluster.tasks("runs")
    return task


def test_the_id_follows_from_the_key_alone() -> None:
    first, later = make("backup/1"), make("other", "backup/1")
    later_one = later.view("runs").tasks["backup/1"]
    assert only(first).id == later_one.id
    assert {task.id for task in later.tasks("runs")} != {later_one.id}


def test_without_it_each_task_has_an_id_of_its_own() -> None:
    assert only(make("backup/1", once=False)).id != make("other", "backup/1", once=False).tasks("runs")[1].id


def test_asking_again_makes_nothing_even_when_it_has_ended() -> None:
    cluster = make("backup/1")
    ended = only(cluster)
    cluster.end_task(ended)
    cluster.settle()
    ask(cluster, "backup/1")
    assert not cluster.live("runs")


def test_what_a_node_runs_since_before_the_state_was_restored_is_not_started_again() -> None:
    """The restored state does not remember the task; the node does, and the framework asks for it again."""
    before = only(make("backup/1"))
    restored = make(nodes=2)
    report(restored, before.id, TaskState.RUNNING)
    assert dict(restored.state.orphans.items()) == {before.id: "n0"}
    ask(restored, "backup/1")
    task = only(restored)
    assert (task.id, task.state, task.node) == (before.id, TaskState.REMOVED, None)
    assert task.status.exit is not None
    assert task.status.exit.outcome is Outcome.LOST
    assert "node n0 runs it since before the state was restored" in task.status.exit.reason
    assert before.id in restored.state.orphans, "it goes on, and is shown"


def test_nor_when_the_node_says_so_while_it_waits() -> None:
    before = only(make("backup/1"))
    restored = make("backup/1", nodes=0)
    restored.add_node("n0", cpus=0.05)
    restored.settle()
    assert only(restored).state is TaskState.PENDING
    report(restored, before.id, TaskState.RUNNING)
    assert only(restored).state is TaskState.REMOVED
    report(restored, before.id, TaskState.ENDED)
    assert before.id not in restored.state.orphans


def test_what_has_ended_there_is_run_again() -> None:
    """Nobody knows of it any more: the state decides."""
    before = only(make("backup/1"))
    restored = make("backup/1", nodes=0)
    restored.add_node("n0", cpus=0.05)
    report(restored, before.id, TaskState.ENDED)
    assert only(restored).state is TaskState.PENDING

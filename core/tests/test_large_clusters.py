"""A thousand nodes in the harness: they work, and a bug of the kernel's is found there as in small clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from orlop.framework import Action, Ask, Framework, Kill, Process, Resources, Task, View
from orlop.kernel.invariants import InvariantBroken, check, check_changed
from orlop.kernel.kernel import Kernel
from orlop.kernel.state import State
from orlop.model.tasks import Exit, Outcome, Status, TaskState
from orlop.testing.checks import SMALL
from orlop.testing.harness import Cluster

NODES = 1_000


@attrs.frozen
class Config:
    copies: int


class Copies(Framework):
    name = "copies"
    config = Config

    def reconcile(self, view: View) -> Iterator[Action]:
        wanted = {f"copy-{number:04d}" for number in range(self.settings.copies)}
        for key in sorted(wanted - view.live.keys()):
            yield Ask(key, run=Process("sleep 1000"), needs=Resources(cpus=2, mem="1GiB"), group="all")
        for key in sorted(view.live.keys() - wanted):
            yield Kill(key)


def large() -> Cluster:
    """A task on each of a thousand nodes."""
    cluster = Cluster(Copies(Config(NODES)))
    cluster.add_nodes(NODES)
    cluster.settle()
    return cluster


def test_a_thousand_tasks_run_on_a_thousand_nodes_and_live_through_losses() -> None:
    cluster = large()
    assert {task.node for task in cluster.running()} == set(cluster.nodes)
    for number in range(1, 101):
        cluster.lose_node(f"n{number}")
    cluster.settle()
    assert len(cluster.running()) == NODES
    assert len({task.node for task in cluster.running()}) == NODES - 100
    cluster.restart()
    cluster.settle()
    assert len(cluster.running()) == NODES
    cluster.restart(Copies(Config(10)))
    cluster.settle()
    assert {task.key for task in cluster.running()} == {f"copy-{number:04d}" for number in range(10)}
    check(cluster.state)


def test_names_of_nodes_that_are_taken_are_left_out() -> None:
    cluster = Cluster()
    cluster.add_node("n2", cpus=1)
    made = cluster.add_nodes(2, zone="z1")
    assert [node.info.id for node in made] == ["n1", "n3"]
    assert [node.info.attributes for node in cluster.nodes.values()] == [{}, {"zone": "z1"}, {"zone": "z1"}]


def task_changed(**changes: Any) -> Callable[[State, str], State]:
    def change(state: State, task_id: str) -> State:
        return attrs.evolve(state, tasks=state.tasks.set(task_id, attrs.evolve(state.tasks[task_id], **changes)))

    return change


def index_changed(**changes: Any) -> Callable[[State, str], State]:
    def change(state: State, task_id: str) -> State:
        own = state.framework("copies")
        made = {name: change(getattr(own, name), own, task_id) for name, change in changes.items()}
        return attrs.evolve(state, frameworks=state.frameworks.set("copies", attrs.evolve(own, **made)))

    return change


def node_of(task: Task) -> str:
    assert task.node is not None
    return task.node


def candidate_changed(**changes: Any) -> Callable[[State, str], State]:
    def change(state: State, task_id: str) -> State:
        node = node_of(state.tasks[task_id])
        found = state.candidates[node]
        made = {name: change(found, state.tasks[task_id]) for name, change in changes.items()}
        return attrs.evolve(state, candidates=state.candidates.set(node, attrs.evolve(found, **made)))

    return change


REMOVED = Status(task="", state=TaskState.REMOVED, incarnation=1, sequence=9, exit=Exit(outcome=Outcome.FAILED))
#: What is wrong → how a state becomes so.
WRONG: dict[str, Callable[[State, str], State]] = {
    "changed its identity": task_changed(key="another"),
    "went back from": task_changed(status=Status(task="", state=TaskState.STARTING, incarnation=0, sequence=9)),
    "has two live tasks": index_changed(live=lambda live, own, _: live.set("copy-0000", own.live["copy-0001"])),
    "has ended, and is listed as live": task_changed(status=REMOVED),
    "without saying how": lambda state, task: index_changed(live=lambda live, *_: live.delete("copy-0000"))(
        task_changed(status=attrs.evolve(REMOVED, exit=None))(state, task), task
    ),
    "is not listed on its node": candidate_changed(tasks=lambda found, task: found.tasks.delete(task.sequence)),
    "and should be": candidate_changed(free=lambda found, _: found.free + Resources(cpus=1)),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_a_step_made_wrong_is_found_by_looking_at_what_it_changed(what: str) -> None:
    cluster = Cluster(Copies(Config(2)))
    cluster.add_nodes(2)
    cluster.settle()
    good = cluster.state
    task = cluster.running()[0]
    assert task.key == "copy-0000"
    check_changed(good, good, good.tasks, good.node_order)
    with pytest.raises(InvariantBroken, match=what):
        check_changed(good, WRONG[what](good, task.id), [task.id], [])


def test_a_bug_of_the_kernel_is_found_in_a_large_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = large()
    assert len(cluster.state.tasks) > SMALL
    honest = Kernel.step

    def forgetful(*arguments: Any) -> Any:
        step = honest(*arguments)
        node = node_of(cluster.running()[0])
        was = cluster.state.candidates[node]
        return attrs.evolve(step, state=attrs.evolve(step.state, candidates=step.state.candidates.set(node, was)))

    monkeypatch.setattr(Kernel, "step", forgetful)
    with pytest.raises(InvariantBroken, match="is listed on its node"):
        cluster.end_task(cluster.running()[0], code=1)


def test_what_no_single_step_shows_is_found_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong index that concerns nothing that changes is found when the whole state is looked at again."""
    cluster = large()
    cluster.state = attrs.evolve(cluster.state, totals=cluster.state.totals + Resources(cpus=1))

    def live_on() -> None:
        for _ in range(100):
            for task in cluster.running()[:100]:
                cluster.end_task(task, code=1)
            cluster.settle()

    with pytest.raises(InvariantBroken, match="totals"):
        live_on()

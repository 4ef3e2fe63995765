"""Any history of clients' orders and misfortunes leaves each container once, with its key, its name and its labels."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orlop.framework import Changed, Desired, NotPlaced, Refused, Task, TaskState, stopped_by_drain
from orlop.kernel.events import DrainNode, NodeSilent
from orlop.model.tasks import Outcome
from orlop.server.framework_run import Command, FrameworkRunner
from orlop.testing.harness import Cluster
from orlop_swarm.documents import CONTAINER, NAME
from orlop_swarm.framework import TRY_AGAIN_AFTER_MS, Swarm
from orlop_swarm.hooks import node_filters, node_scorers
from orlop_swarm.orders import Conflict, Create, Rename, Reserve, Reserved
from orlop_swarm.settings import Config

NODES: Final = ("n1", "n2", "n3")
NAMES: Final = ("db", "web", "mail")
MOVES: Final = "reschedule:on-node-failure"
names = st.sampled_from(NAMES)
nodes = st.sampled_from(NODES)
which = st.integers(0, 5)


def cluster() -> Cluster:
    made = Cluster(Swarm())
    for name in NODES:
        made.add_node(name)
    made.settle()
    return made


def create(one: Cluster, name: str = "", *, moves: bool = False, node: str = "") -> Reserved:
    body: dict[str, Any] = {"Image": "busybox", "Labels": {"of": name}, "HostConfig": {"NanoCpus": 10**8}}
    if moves:
        body["Env"] = [MOVES]
    reserved = one.command("swarm", Create(body=body, name=name, nodes=(node,) if node else ()))
    assert isinstance(reserved, Reserved)
    one.settle()
    return reserved


def task_of(one: Cluster, key: str) -> Task:
    return one.view("swarm").tasks[key]


def drain(one: Cluster, node: str) -> None:
    one.step(DrainNode(node=node, drained=True, within_ms=0))
    one.settle()
    one.advance(1)


# What moves


@pytest.mark.parametrize("ran", [True, False])
def test_one_that_moves_is_made_again_as_it_was(ran: bool) -> None:
    one = cluster()
    made = create(one, "db", moves=True)
    first = task_of(one, made.key)
    if ran:
        one.start_task(first)
    one.settle()
    lost = str(first.node)
    one.lose_node(lost)
    one.settle()
    task = task_of(one, made.key)
    assert task.live
    assert (task.id != first.id, task.name, task.node != lost) == (True, "db", True)
    assert task.state is (TaskState.RUNNING if ran else TaskState.PREPARED)
    labels = one.view("swarm").spec(task).payload["Labels"]
    assert (labels["of"], labels["com.docker.swarm.id"]) == ("db", made.key)
    one.return_node(lost)
    one.settle()
    assert first.id not in one.state.candidate(lost).tasks.values(), "the returning node is to keep its copy"
    assert task_of(one, made.key).id == task.id


def test_one_that_is_lost_again_before_it_runs_is_still_to_run() -> None:
    one = cluster()
    made = create(one, "db", moves=True)
    one.start_task(task_of(one, made.key))
    one.settle()
    for node in one.nodes.values():
        node.starts = lambda _: False
    one.lose_node(str(task_of(one, made.key).node))
    one.settle()
    second = task_of(one, made.key)
    assert (second.state, second.desired) == (TaskState.STARTING, Desired.RUNNING)
    one.lose_node(str(second.node))
    one.settle()
    third = task_of(one, made.key)
    assert (third.id != second.id, third.desired) == (True, Desired.RUNNING)


def test_one_that_cannot_be_made_where_it_moves_to_is_tried_again_and_still_to_run() -> None:
    one = cluster()
    made = create(one, "db", moves=True)
    one.start_task(task_of(one, made.key))
    one.settle()
    for node in one.nodes.values():
        node.starts = lambda _: False
    one.lose_node(str(task_of(one, made.key).node))
    one.settle()
    second = task_of(one, made.key)
    one.end_task(second, outcome=Outcome.ERROR, reason="no space left on device")
    one.settle()
    for node in one.nodes.values():
        node.starts = lambda _: True
    assert one.pending(), "it is not tried again at once"
    one.advance(TRY_AGAIN_AFTER_MS / 1000 + 1)
    assert task_of(one, made.key).state is TaskState.RUNNING


def test_one_that_was_stopped_since_it_moved_stays_stopped() -> None:
    one = cluster()
    made = create(one, "db", moves=True)
    one.start_task(task_of(one, made.key))
    one.settle()
    one.lose_node(str(task_of(one, made.key).node))
    one.settle()
    second = task_of(one, made.key)
    one.stop_task(second)
    one.settle()
    one.lose_node(str(second.node))
    one.settle()
    assert task_of(one, made.key).state is TaskState.PREPARED


def test_its_name_is_not_given_away_while_it_moves() -> None:
    one = cluster()
    made = create(one, "db", moves=True)
    one.lose_node(str(task_of(one, made.key).node))
    with pytest.raises(Refused) as refused:  # nobody has attended to its loss yet
        one.command("swarm", Create(body={"Image": "busybox"}, name="db"))
    assert refused.value.reason == Conflict(name="db", key=made.key)
    other = one.command("swarm", Create(body={"Image": "busybox"}, name="web"))
    with pytest.raises(Refused):
        one.command("swarm", Reserve(key=other.key, name="db"))
    one.settle()
    assert [task.key for task in one.live() if task.name == "db"] == [made.key]


def test_what_does_not_move_waits_for_its_node() -> None:
    one = cluster()
    made = create(one, "db", node="n1")
    first = task_of(one, made.key)
    one.start_task(first)
    one.lose_node("n1")
    one.settle()
    task = task_of(one, made.key)
    assert (task.id, task.live, task.unreachable) == (first.id, True, True)
    one.return_node("n1")
    one.settle()
    assert (task_of(one, made.key).id, task_of(one, made.key).state) == (first.id, TaskState.RUNNING)


def test_a_drained_node_gives_away_what_moves_alone() -> None:
    one = cluster()
    moving = create(one, "db", moves=True)
    first = str(task_of(one, moving.key).node)
    staying = create(one, "web", node=first)
    for made in (moving, staying):
        one.start_task(task_of(one, made.key))
    one.settle()
    drain(one, first)
    assert (task_of(one, moving.key).state, task_of(one, moving.key).node != first) == (TaskState.RUNNING, True)
    assert staying.key not in one.view("swarm").live
    assert one.view("swarm").objects(NAME).keys() == {"db"}


def test_what_was_stopped_by_a_drain_moves_also_when_that_was_taken_back() -> None:
    one = cluster()
    made = create(one, "db", moves=True)
    first = task_of(one, made.key)
    node = one.nodes[str(first.node)]
    one.start_task(first)
    one.settle()
    node.stops = lambda _: False  # it takes its time
    drain(one, node.info.id)
    one.step(DrainNode(node=node.info.id, drained=False))
    one.report_stopped(first)
    one.settle()
    moved = task_of(one, made.key)
    assert (moved.id != first.id, moved.state) == (True, TaskState.RUNNING)


@pytest.mark.parametrize("node_is_lost", [True, False])
def test_what_an_operator_kills_on_a_drained_node_does_not_move(node_is_lost: bool) -> None:
    one = cluster()
    made = create(one, "db", moves=True)
    first = task_of(one, made.key)
    node = one.nodes[str(first.node)]
    node.stops = lambda _: False
    one.step(DrainNode(node=node.info.id, drained=True))  # what is there may stay
    assert one.kill_task(first.id)
    if node_is_lost:
        one.lose_node(node.info.id)
    else:
        one.report_stopped(first)
    one.settle()
    assert made.key not in one.view("swarm").live
    assert not one.view("swarm").objects(NAME)


# Several commands in one run


def run_together(one: Cluster, *orders: Create, everything: bool = False) -> list[Any]:
    """Commands that come at once; everything: the server has just begun. Replies, or what was raised."""
    runner = FrameworkRunner(Swarm())
    changed = Changed(everything=everything, nodes=everything)
    result = runner.run(
        one.state, changed, [Command(token=str(at), value=order) for at, order in enumerate(orders)], one.now, "x"
    )
    assert result.actions is not None
    replies = result.actions.replies
    one.step(result.actions)
    one.settle()
    return [replies.get(str(at), result.refusals.get(str(at))) for at in range(len(orders))]


@pytest.mark.parametrize("everything", [True, False])
def test_commands_that_come_at_once_make_a_container_each(everything: bool) -> None:
    one = cluster()
    body = {"Image": "busybox"}
    orders = (Create(body=body, name="db"), Create(body=body), Create(body=body), Create(body=body, name="db"))
    *made, refused = run_together(one, *orders, everything=everything)
    assert isinstance(refused, Refused)
    keys = {reserved.key for reserved in made}
    assert len(keys) == len({reserved.name for reserved in made}) == 3
    view = one.view("swarm")
    assert {task.key for task in one.live()} == keys == view.objects(CONTAINER).keys()
    assert {name.key for name in view.objects(NAME).values()} == keys


def test_those_that_come_at_once_share_their_new_volume() -> None:
    settings = Config()
    one = Cluster(Swarm(settings), filters=node_filters(settings), scorers=node_scorers(settings))
    for number in range(3):
        one.add_node(f"n{number}", runtimes=("docker",))
    one.settle()
    body = {"Image": "busybox", "HostConfig": {"Binds": ["new:/data"]}}
    run_together(one, *(Create(body=body, name=f"user{number}", volumes=("new",)) for number in range(6)))
    assert len(one.live()) == 6
    assert len({task.node for task in one.live()}) == 1


# Any history


class Histories(RuleBasedStateMachine):
    """Clients, nodes that go and come, drains, and servers that begin anew."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = cluster()
        self.made: dict[str, bool] = {}  # key → whether it moves

    def live(self) -> list[Task]:
        return self.cluster.live("swarm")

    def chosen(self, number: int) -> Task | None:
        """One whose node is there."""
        here = [task for task in self.live() if task.node and self.cluster.nodes[task.node].connected]
        return here[number % len(here)] if here else None

    @rule(name=st.one_of(names, st.just("")), moves=st.booleans())
    def create(self, name: str, moves: bool) -> None:
        taken = {one.name for one in self.cluster.view("swarm").objects(CONTAINER).values()}
        taken |= self.cluster.view("swarm").objects(NAME).keys()
        try:
            reserved = create(self.cluster, name, moves=moves)
        except Refused as refused:
            assert isinstance(refused.reason, Conflict)
            assert name in taken
        except NotPlaced:
            assert not any(node.connected for node in self.cluster.nodes.values()) or self.drained()
        else:
            self.made[reserved.key] = moves

    def drained(self) -> bool:
        return any(node.drained for node in self.cluster.view("swarm").nodes())

    @rule(number=which)
    def start(self, number: int) -> None:
        task = self.chosen(number)
        if task is not None and task.state is TaskState.PREPARED:
            self.cluster.start_task(task)

    @rule(number=which, code=st.integers(0, 1))
    def stop(self, number: int, code: int) -> None:
        task = self.chosen(number)
        if task is not None and task.running:
            self.cluster.stop_task(task, code=code)

    @rule(number=which)
    def remove(self, number: int) -> None:
        task = self.chosen(number)
        if task is not None:
            self.cluster.end_task(task, outcome=Outcome.KILLED)
            self.cluster.settle()
            assert task.key not in self.cluster.view("swarm").live or stopped_by_drain(task)

    @rule(number=which, name=names)
    def rename(self, number: int, name: str) -> None:
        task = self.chosen(number)
        if task is None:
            return
        try:
            self.cluster.command("swarm", Reserve(key=task.key, name=name))
        except Refused:
            return
        self.cluster.command("swarm", Rename(key=task.key, name=name))

    @rule(node=nodes)
    def lose(self, node: str) -> None:
        if self.cluster.nodes[node].connected:
            self.cluster.lose_node(node, gone=False)

    @rule(node=nodes)
    def give_up(self, node: str) -> None:
        if not self.cluster.nodes[node].connected:
            self.cluster.step(NodeSilent(node=node, gone=True))

    @rule(node=nodes)
    def come_back(self, node: str) -> None:
        if not self.cluster.nodes[node].connected:
            self.cluster.return_node(node)

    @rule(node=nodes, drained=st.booleans())
    def drain(self, node: str, drained: bool) -> None:
        self.cluster.step(DrainNode(node=node, drained=drained, within_ms=0 if drained else None))

    @precondition(lambda self: self.made)
    @rule()
    def lead_anew(self) -> None:
        self.cluster.restart()

    @rule()
    def settle(self) -> None:
        self.cluster.settle()

    @rule()
    def wait(self) -> None:
        self.cluster.advance(TRY_AGAIN_AFTER_MS / 1000 + 1)

    @invariant()
    def names_are_of_one_each(self) -> None:
        objects = self.cluster.view("swarm").objects
        twice = [name for name, count in Counter(one.name for one in objects(CONTAINER).values()).items() if count > 1]
        assert not twice
        for key, container in objects(CONTAINER).items():
            assert objects(NAME)[container.name].key == key

    def teardown(self) -> None:
        for node in NODES:
            if not self.cluster.nodes[node].connected:
                self.cluster.return_node(node)
            self.cluster.step(DrainNode(node=node, drained=False))
        self.cluster.advance(2 * TRY_AGAIN_AFTER_MS / 1000)
        view = self.cluster.view("swarm")
        live = self.live()
        assert view.objects(CONTAINER).keys() == {task.key for task in live}
        assert {name.key for name in view.objects(NAME).values()} == {task.key for task in live}
        counted = [(node, task) for node in NODES for task in self.cluster.state.candidate(node).tasks.values()]
        assert sorted(counted) == sorted((task.node, task.id) for task in live)
        assert len({task.key for task in live}) == len(live)
        for task in live:
            assert task.state in (TaskState.PREPARED, TaskState.RUNNING)
            assert view.objects(CONTAINER)[task.key].moves is self.made[task.key]


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)

"""Placement constraints that count, on nodes and tasks that are real values behind a small view."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import pytest

from orlop.framework import (
    Candidate,
    Constraint,
    Node,
    NodeState,
    PlacementView,
    PortSet,
    Request,
    Resources,
    Spec,
    Task,
    TaskState,
)
from orlop.model.nodes import NodeInfo
from orlop.model.tasks import Placement, Status
from orlop_marathon.constraints import MarathonConstraints
from orlop_marathon.reconciling import VERSION_LABEL


def node(name: str, state: NodeState = NodeState.READY, **attributes: str) -> Node:
    info = NodeInfo(id=name, name=f"{name}.example", address="10.0.0.1", resources=Resources(), attributes=attributes)
    return Node(info=info, state=state)


NODES = {one.id: one for one in (node("a", rack="1"), node("b", rack="1"), node("c", rack="2"), node("bare"))}


class FakeView:
    def __init__(self, tasks: Iterable[Task] = (), nodes: dict[str, Node] = NODES) -> None:
        self._tasks, self._nodes = list(tasks), nodes

    def group(self, framework: str, group: str) -> Iterator[Task]:
        assert (framework, group) == ("marathon", "/x")
        return iter(self._tasks)

    def node(self, node_id: str) -> Node:
        return self._nodes[node_id]

    def nodes(self) -> Iterator[Node]:
        return iter(self._nodes.values())


def task(on: str | None, version: str = "v1", state: TaskState = TaskState.RUNNING) -> Task:
    return Task(
        id=f"task-{on}",
        framework="marathon",
        key="/x#1",
        spec="s",
        group="/x",
        labels={VERSION_LABEL: version},
        placement=Placement(node=on) if on else None,
        status=Status(task=f"task-{on}", state=state),
    )


def candidate(name: str, nodes: dict[str, Node] = NODES) -> Candidate:
    return Candidate(node=nodes[name], free=Resources(), unheld_ports=PortSet())


def request(*constraints: Constraint) -> Request:
    return Request(
        framework="marathon",
        key="/x#2",
        group="/x",
        spec_id="s",
        spec=Spec(runtime="process", payload={}, constraints=constraints),
        labels={VERSION_LABEL: "v1"},
    )


class Prepared:
    def __init__(
        self, *constraints: tuple[str, ...], tasks: Iterable[Task] = (), nodes: dict[str, Node] = NODES
    ) -> None:
        made = (Constraint(field=one[0], operator=one[1], value=one[2] if one[2:] else "") for one in constraints)
        view = cast(PlacementView, FakeView(tasks, nodes))
        self.nodes = nodes
        self.check: Any = MarathonConstraints().prepare(request(*made), view)

    def allowed(self) -> list[str]:
        return [name for name in self.nodes if self.check(candidate(name, self.nodes)) is None]

    def place(self, name: str) -> None:
        assert self.check(candidate(name, self.nodes)) is None
        self.check.placed(candidate(name, self.nodes))


@pytest.mark.parametrize("operator", ["IS", "LIKE", "UNLIKE", "FROB"])
def test_other_operators_are_not_its_business(operator: str):
    view = cast(PlacementView, FakeView())
    assert MarathonConstraints().prepare(request(Constraint(field="rack", operator=operator, value="1")), view) is None


def test_unique():
    prepared = Prepared(("hostname", "UNIQUE"), tasks=[task("a")])
    assert prepared.allowed() == ["b", "c", "bare"]
    prepared.place("b")
    assert prepared.allowed() == ["c", "bare"]
    assert prepared.check(candidate("a")) == "hostname UNIQUE"


def test_a_node_without_the_attribute_never_fits():
    assert Prepared(("rack", "UNIQUE")).allowed() == ["a", "b", "c"]
    assert Prepared(("rack", "CLUSTER")).allowed() == ["a", "b", "c"]


def test_max_per():
    prepared = Prepared(("rack", "MAX_PER", "2"), tasks=[task("a")])
    prepared.place("b")
    assert prepared.allowed() == ["c"]
    assert prepared.check(candidate("a")) == "rack MAX_PER 2"


def test_cluster_follows_the_first_or_its_value():
    prepared = Prepared(("rack", "CLUSTER"))
    prepared.place("c")
    assert prepared.allowed() == ["c"]
    assert Prepared(("rack", "CLUSTER"), tasks=[task("a"), task("c")]).allowed() == ["a", "b"]
    assert Prepared(("rack", "CLUSTER", "2"), tasks=[task("a")]).allowed() == ["c"]


def test_group_by_goes_to_the_least_used_once_all_are_seen():
    prepared = Prepared(("rack", "GROUP_BY", "2"))
    prepared.place("a")
    assert prepared.allowed() == ["c"]
    prepared.place("c")
    assert prepared.allowed() == ["a", "b", "c"]
    prepared.place("b")
    assert prepared.allowed() == ["c"]
    assert prepared.check(candidate("a")) == "rack GROUP_BY 2"


def test_group_by_without_a_value_knows_the_groups_from_the_nodes_that_can_be_used():
    prepared = Prepared(("rack", "GROUP_BY"))
    prepared.place("a")
    assert prepared.allowed() == ["c"]
    alone = {"a": node("a", rack="1"), "c": node("c", NodeState.UNREACHABLE, rack="2")}
    prepared = Prepared(("rack", "GROUP_BY"), nodes=alone)
    prepared.place("a")
    assert prepared.allowed() == ["a", "c"]


def test_constraints_hold_together():
    prepared = Prepared(("hostname", "UNIQUE"), ("rack", "MAX_PER", "1"), tasks=[task("a")])
    assert prepared.allowed() == ["c"]


def test_what_counts_as_placed():
    ended, waiting, outdated, lost = task("a", state=TaskState.ENDED), task(None), task("b", "v0"), task("gone")
    assert Prepared(("hostname", "UNIQUE"), tasks=[ended, waiting, outdated, lost]).allowed() == list(NODES)
    assert Prepared(("hostname", "UNIQUE"), tasks=[task("a", state=TaskState.STOPPING)]).allowed() == ["b", "c", "bare"]

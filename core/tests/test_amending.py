"""A task that gets another spec while it lives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import pytest

from orlop.framework import Action, Amend, Ask, Constraint, Framework, Process, Resources, Task, View
from orlop.testing.harness import Cluster

SMALL = attrs.evolve(Process("true"), resources=Resources(cpus=1, mem="1GiB"))
LARGE = attrs.evolve(Process("false"), resources=Resources(cpus=3, mem="512MiB"))
NOWHERE = attrs.evolve(SMALL, constraints=(Constraint(field="hostname", operator="IS", value="nowhere"),))


class Amending(Framework):
    """Two tasks of one spec, and one that waits; a command gives one of them another."""

    name = "amending"

    def reconcile(self, view: View) -> Iterator[Action]:
        for key, spec in (("a", SMALL), ("b", SMALL), ("waits", NOWHERE)):
            if key not in view.tasks:
                yield Ask(key, run=spec, role="them")

    def command(self, view: View, command: Any) -> Iterable[Action]:
        yield Amend(*command)


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster(Amending())
    made.add_node("n", cpus=4, mem="4GiB")
    made.settle()
    return made


def task(cluster: Cluster, key: str = "a") -> Task:
    return cluster.view("amending").tasks[key]


def amend(cluster: Cluster, *command: Any) -> None:
    cluster.command("amending", command)
    cluster.settle()


def free(cluster: Cluster) -> dict[str, int]:
    return dict(cluster.state.candidates["n"].free.units)


def commands(cluster: Cluster) -> list[str]:
    """Of all specs that there are."""
    return sorted(record.spec.payload["command"] for record in cluster.state.specs.values())


def test_what_it_takes_of_its_node_follows(cluster: Cluster) -> None:
    before, identity = free(cluster), task(cluster).id
    amend(cluster, "a", LARGE)
    assert task(cluster).id == identity
    assert cluster.view("amending").spec(task(cluster)) == LARGE
    assert cluster.view("amending").spec(task(cluster, "b")) == SMALL
    assert free(cluster) == {"mem": before["mem"] + 2**29, "disk": before["disk"]}, "the cpus are all taken"
    assert cluster.state.role_usage["them"] == LARGE.resources + SMALL.resources
    amend(cluster, "a", SMALL)
    assert free(cluster) == before
    assert commands(cluster) == ["true", "true"], "nothing refers to the other one any more"


def test_a_node_may_be_held_to_more_than_it_has_and_recovers(cluster: Cluster) -> None:
    amend(cluster, "a", attrs.evolve(LARGE, resources=Resources(cpus=30)))
    assert free(cluster)["cpus"] == -27_000
    cluster.end_task(task(cluster), code=0)
    cluster.settle()
    assert free(cluster)["cpus"] == 3_000
    assert commands(cluster) == ["false", "true", "true"], "its record tells of it"


def test_one_that_waits_is_placed_by_its_new_spec(cluster: Cluster) -> None:
    before = task(cluster, "waits")
    assert before.node is None
    amend(cluster, "waits", attrs.evolve(SMALL, resources=Resources(cpus=0.5)))
    assert (task(cluster, "waits").id, task(cluster, "waits").node) == (before.id, "n")


def test_a_key_without_a_live_task_is_left_alone(cluster: Cluster) -> None:
    amend(cluster, "nobody", LARGE)
    assert commands(cluster) == ["true", "true"]

"""What nodes were rated is remembered: it must change nothing but the time that placing takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.framework import Action, Ask, Candidate, Framework, PlacementView, Process, Request, Resources, View
from orlop.kernel import ratings
from orlop.kernel.ratings import RatingMemory
from orlop.testing.harness import Cluster


class Copies(Framework):
    """So many tasks, each told by (key, what it runs, cpus)."""

    name = "copies"

    def reconcile(self, view: View) -> Iterator[Action]:
        for key, command, cpus in self.settings:
            if key not in view.live:
                yield Ask(key, run=Process(command), needs=Resources(cpus=cpus))


class Scorer:
    """Gives what `make` makes of the ask."""

    def __init__(self, name: str, weight: float, make: Callable[[Request, PlacementView], Any]) -> None:
        self.name = name
        self.weight = weight
        self.prepare = make


def lasting(candidate: Candidate) -> float:
    return 0.1 * len(candidate.tasks) / 3


lasting.exact = True  # type: ignore[attr-defined]


def of_its_own(request: Request, view: PlacementView) -> Callable[[Candidate], float]:
    return lambda candidate: (len(request.key) * len(candidate.node.id) % 7) / 7


def refusing(request: Request, view: PlacementView) -> Callable[[Candidate], str | None] | None:
    if "odd" not in request.spec.payload["command"]:
        return None
    return lambda candidate: None if int(candidate.node.id[1:]) % 2 else "even"


def history(asked: list[tuple[int, str, float]], *, remember: bool) -> list[tuple[str, str | None]]:
    scorers = [Scorer("of its own", 0.3, of_its_own), Scorer("lasting", 0.7, lambda *_: lasting)]
    cluster = Cluster(filters=[Scorer("refusing", 0, refusing)], scorers=scorers, check_idempotence=False)
    if not remember:
        cluster.kernel.planner._memory = None  # type: ignore[assignment]  # nothing is remembered
    cluster.add_nodes(6)
    told: list[tuple[str, str, float]] = []
    for number, (copies, command, cpus) in enumerate(asked):
        told += [(f"{command}{number}-{copy}", command, cpus) for copy in range(copies)]
        cluster.install(Copies(told))
        cluster.settle()
        if number % 3 == 2 and (running := cluster.running()):
            told = [one for one in told if one[0] != running[0].key]
            cluster.install(Copies(told))
            cluster.end_task(running[0])
            cluster.settle()
    return [(task.key, task.node) for task in cluster.tasks()]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["a", "odd", "b"]), st.sampled_from([0, 0.3, 1])), max_size=8)
)
def test_the_same_history_gives_the_same_places(asked: list[tuple[int, str, float]]) -> None:
    assert history(asked, remember=True) == history(asked, remember=False)


def test_a_callable_that_came_before_is_asked_again_about_changed_nodes_only() -> None:
    seen: list[str] = []

    def score(candidate: Candidate) -> float:
        seen.append(candidate.node.id)
        return 0.0

    score.exact = True  # type: ignore[attr-defined]
    cluster = Cluster(scorers=[Scorer("counted", 1, lambda *_: score)])
    cluster.add_nodes(5)
    told: list[tuple[str, str, float]] = []
    for number in range(4):
        told.append((f"k{number}", f"sleep {number}", 0.1))
        cluster.install(Copies(told))
        seen.clear()
        cluster.settle()
    last = [task.node for task in cluster.tasks()][-2]
    assert seen == [last]


def test_a_new_callable_is_never_taken_for_one_that_is_gone() -> None:
    """Its identity may be that of one that was thrown away."""
    memory = RatingMemory()
    kept = lasting
    for _ in range(ratings.CALLABLES_REMEMBERED * 2):
        memory.divide([lambda _: "no"], [(1.0, kept)])
    assert len(memory._seen) <= ratings.CALLABLES_REMEMBERED
    assert len(memory._known) <= ratings.RATINGS_REMEMBERED
    for key, (_, callables) in memory._known.items():
        assert {one for one in key if isinstance(one, int)} <= set(map(id, callables))


def test_the_best_of_all_nodes_is_found_where_a_scorer_is_exact() -> None:
    def exact(candidate: Candidate) -> float:
        return 1.0 if candidate.node.id == "n177" else 0.0

    exact.exact = True  # type: ignore[attr-defined]
    cluster = Cluster(scorers=[Scorer("exact", 10, lambda *_: exact)])
    cluster.add_nodes(200)
    cluster.install(Copies([("k", "true", 0.1)]))
    cluster.settle()
    (task,) = cluster.tasks()
    assert task.node == "n177"


def test_a_filter_sees_the_tasks_of_a_node_and_their_specs() -> None:
    """Whosever they are, those of the same step too."""

    def apart(request: Request, view: PlacementView) -> Callable[[Candidate], str | None]:
        def check(candidate: Candidate) -> str | None:
            held = [view.spec(view.task(task)).payload["command"] for task in candidate.tasks.values()]
            return "has one" if request.spec.payload["command"] in held else None

        return check

    cluster = Cluster(filters=[Scorer("apart", 0, apart)])
    cluster.add_nodes(3)
    cluster.install(Copies([(f"k{number}", "same", 0.1) for number in range(4)]))
    cluster.settle()
    assert len({task.node for task in cluster.running()}) == 3
    (waiting,) = cluster.pending()
    assert cluster.explain(waiting).ruled_out == (("apart", "has one", 3),)


class Beside:
    """A task that runs `beside X` is put beside one that runs X."""

    name = "beside"

    def prepare(self, request: Request, view: PlacementView) -> Callable[[Candidate], str | None] | None:
        _, beside, neighbour = request.spec.payload["command"].partition("beside ")
        if not beside:
            return None

        def check(candidate: Candidate) -> str | None:
            held = [view.spec(view.task(task)).payload["command"] for task in candidate.tasks.values()]
            return None if neighbour in held else "alone"

        check.follows = True  # type: ignore[attr-defined]
        return check


@pytest.mark.parametrize("restarted", [False, True])
def test_what_waits_for_a_neighbour_is_placed_when_one_comes(restarted: bool) -> None:
    """And so is what waits for that one, which was asked for before it."""
    told: list[tuple[str, str, float]] = [
        ("third", "beside beside first", 0.1),
        ("second", "beside first", 0.1),
        ("never", "beside nobody", 0.1),
    ]
    cluster = Cluster(Copies(told), filters=[Beside()])
    cluster.add_nodes(4)
    cluster.settle()
    assert len(cluster.pending()) == 3
    if restarted:
        cluster.restart(Copies(told))
        cluster.settle()
    told.append(("other", "other", 0.1))
    cluster.settle()
    told.append(("first", "first", 0.1))
    cluster.install(Copies(told))
    cluster.settle()
    places = {task.key: task.node for task in cluster.live()}
    assert places["first"] == places["second"] == places["third"] is not None
    assert places["never"] is None
    assert [key.spec for key in cluster.state.following] == [cluster.pending()[0].spec]


def test_only_what_waits_for_neighbours_is_tried_again_where_tasks_are_put() -> None:
    prepared: list[str] = []

    def counting(request: Request, view: PlacementView) -> None:
        prepared.append(request.key)

    cluster = Cluster(filters=[Beside(), Scorer("counting", 0, counting)])
    cluster.add_nodes(2)
    cluster.install(Copies([("large", "true", 99), ("beside", "beside nobody", 0.1)]))
    cluster.settle()
    prepared.clear()
    cluster.install(Copies([("large", "true", 99), ("beside", "beside nobody", 0.1), ("small", "false", 0.1)]))
    cluster.settle()
    assert prepared == ["small", "beside"]

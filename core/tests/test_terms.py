"""The beginning of a term: a state that is older than what its node has seen gets a higher generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from terms import begin

from orlop.agent.records import AgentRecords, NodeIdentity
from orlop.agent.task_record import TaskRecord
from orlop.model.messages import Assignment, Epoch, Seen
from orlop.model.tasks import Desired, Spec, Status, TaskState
from orlop.server.loading import Term
from orlop.store.memory import MemoryStore

GENERATION = 1


def reached(term: Term, *, generation: int = 0, revision: int = 0, version: int = 0, cluster_id: str = "") -> Seen:
    """What a node has seen when the term was its last one, and so much beyond it."""
    epoch = Epoch(term.epoch.generation + generation, term.epoch.revision + revision)
    return Seen(cluster_id=cluster_id or term.state.cluster_id, epoch=epoch, version=term.state.version + version)


def test_a_node_that_has_seen_no_more_changes_nothing() -> None:
    store = MemoryStore()
    first = begin(store)
    second = begin(store, reached(first))
    third = begin(store)
    assert first.epoch < second.epoch < third.epoch
    assert {term.epoch.generation for term in (first, second, third)} == {GENERATION}


@pytest.mark.parametrize("beyond", [{"revision": 50}, {"version": 1}, {"generation": 1}, {"generation": 3}])
def test_a_node_that_has_seen_more_raises_the_generation_for_good(beyond: dict[str, Any]) -> None:
    store = MemoryStore()
    seen = reached(begin(store), **beyond)
    restored = begin(store, seen)
    assert restored.epoch.generation == seen.epoch.generation + 1
    assert restored.state.generation == restored.epoch.generation
    assert restored.fence > restored.epoch.revision, "what it wrote itself is what its writes compare"
    again = begin(store, reached(restored))
    assert again.epoch.generation == restored.epoch.generation
    assert again.fence == restored.fence


def test_what_was_seen_of_another_cluster_says_nothing() -> None:
    store = MemoryStore()
    begin(store)
    assert begin(store, Seen(cluster_id="another", epoch=Epoch(9, 9), version=9)).epoch.generation == GENERATION


def record(task: str, generation: int, revision: int) -> TaskRecord:
    assignment = Assignment(
        task=task, framework="f", key=task, name=task, spec=Spec(runtime="process", payload={}), desired=Desired.RUNNING
    )
    status = Status(task=task, state=TaskState.RUNNING, incarnation=1, at_utc_ms=1)
    return TaskRecord(assignment=assignment, generation=generation, revision=revision, status=status)


def test_a_node_remembers_what_it_has_seen_until_it_joins_another_cluster(tmp_path: Path) -> None:
    records = AgentRecords(tmp_path / "agent.db")
    assert records.seen() is None
    records.save_identity(NodeIdentity(node_id="n", cluster_id="c"))
    records.save([record("a", 1, 900), record("b", 2, 7), record("c", 2, 5)], [], Epoch(2, 40))
    assert records.seen() == Seen(cluster_id="c", epoch=Epoch(2, 40), version=7)
    records.leave_cluster()
    assert records.identity() == NodeIdentity(node_id="n")
    assert records.seen() is None
    assert [one.orphan for one in records.tasks()] == [True, True, True]
    records.close()

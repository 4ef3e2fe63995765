"""Tasks whose runs are others' business: started and stopped by whomever, until what they run in is removed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.agent.decisions import (
    Effect,
    Remove,
    Signal,
    Start,
    Tell,
)
from orlop.agent.runtimes.interface import Phase, Report, Snapshot
from orlop.agent.worker import Worker
from orlop.framework import Action, Ask, Changed, Docker, Framework, Kill, NotPlaced, Put, Reply, Resources, View
from orlop.model.clock import Now
from orlop.model.messages import Assignment, Assignments, Epoch
from orlop.model.tasks import STATE_ORDER, Desired, Exit, Outcome, PartitionPolicy, Policies, Spec, Status, TaskState
from orlop.testing.harness import Cluster

NOW = Now(1_000, 1_000)
SPEC = Spec(runtime="docker", payload={"Image": "busybox"}, policies=Policies(keep_ended=True))
ID = "c0ffee"


def assignment(desired: Desired = Desired.PREPARED) -> Assignment:
    return Assignment(task="t", framework="f", key="t", name="t", spec=SPEC, desired=desired)


def assigned(
    desired: Desired = Desired.PREPARED, *, full: bool = False, empty: bool = False, runs: int = 1
) -> Assignments:
    items = () if empty else (attrs.evolve(assignment(desired), incarnation=runs),)
    return Assignments(epoch=Epoch(1, 1), revision=5, full=full, items=items)


def seen(phase: Phase, code: int | None = None, **members: Any) -> Report:
    exit_ = None
    if code is not None:
        exit_ = Exit(outcome=Outcome.FAILED if code else Outcome.FINISHED, code=code)
    return Report(task="t", incarnation=1, phase=phase, exit=exit_, external_id=ID, **members)


STOPPED = seen(Phase.ENDED, 3, remains=True)


class Node:
    """A worker and what it has told."""

    def __init__(self, desired: Desired = Desired.PREPARED) -> None:
        self.worker = Worker(["docker"])
        self.told: list[Status] = []
        self.effects: list[Effect] = []
        self.does(assigned(desired))

    def does(self, event: Any) -> list[Effect]:
        effects = self.worker.handle(event, NOW)
        self.told += [status for effect in effects if isinstance(effect, Tell) for status in effect.statuses]
        self.effects += effects
        return effects

    @property
    def story(self) -> list[tuple[int, str]]:
        return [(status.incarnation, status.state.value) for status in self.told]


def test_runs_are_counted_and_each_end_is_kept() -> None:
    node = Node()
    node.does(seen(Phase.PREPARED))
    node.does(seen(Phase.RUNNING))
    node.does(STOPPED)
    assert node.told[-1].exit == STOPPED.exit
    node.does(seen(Phase.RUNNING))
    assert node.told[-1].exit is None
    node.does(seen(Phase.ENDED, 0, remains=True))
    node.does(seen(Phase.ENDED, 0))  # removed
    assert node.story == [
        (1, "prepared"), (1, "running"), (2, "prepared"), (2, "running"), (3, "prepared"), (3, "removed")
    ]  # fmt: skip
    assert all(later.advances(earlier) for earlier, later in itertools.pairwise(node.told))
    assert node.told[-1].exit == Exit(outcome=Outcome.FINISHED, code=0)


def test_what_is_prepared_is_told_at_once() -> None:
    node = Node()
    node.does(seen(Phase.PREPARED, message="no swap limit"))
    assert [(status.state, status.external_id, status.message) for status in node.told] == [
        (TaskState.PREPARED, ID, "no swap limit")
    ]


def test_what_was_removed_without_a_run_is_no_loss() -> None:
    node = Node()
    node.does(seen(Phase.PREPARED))
    lost = Exit(outcome=Outcome.LOST, reason="its container was removed by someone else")
    node.does(attrs.evolve(seen(Phase.ENDED), exit=lost))
    assert node.told[-1].state is TaskState.REMOVED
    assert node.told[-1].exit == Exit(outcome=Outcome.KILLED, reason=lost.reason)


def test_a_refusal_is_passed_on_as_it_is() -> None:
    node = Node()
    refused = Exit(outcome=Outcome.ERROR, reason="invalid volume specification")
    node.does(Report(task="t", incarnation=1, phase=Phase.ENDED, exit=refused, message="400"))
    assert (node.told[-1].state, node.told[-1].exit, node.told[-1].message) == (TaskState.REMOVED, refused, "400")


@pytest.mark.parametrize("removed_before", [True, False])
def test_what_was_told_and_not_written_down_is_made_up_for(removed_before: bool) -> None:
    """The agent died in between, and knows of fewer runs than the server."""
    node = Node()
    node.does(seen(Phase.PREPARED))
    node.does(seen(Phase.RUNNING))
    node.does(STOPPED)
    written = list(node.worker.records.values())
    node.does(seen(Phase.RUNNING))
    node.does(STOPPED)
    known = node.told[-1]
    assert known.incarnation == 3
    node.worker = Worker(["docker"], written, Epoch(1, 1))
    node.does(Snapshot(runtime="docker", reports=(STOPPED,)))
    for removed in (removed_before, not removed_before):
        node.does(seen(Phase.ENDED, 3) if removed else assigned(full=True, runs=3))
    assert node.told[-1].state is TaskState.REMOVED
    assert node.told[-1].advances(known)


@pytest.mark.parametrize("state", [Phase.PREPARED, Phase.RUNNING, Phase.ENDED])
def test_one_that_is_not_wanted_any_more_is_stopped_and_removed(state: Phase) -> None:
    node = Node()
    node.does(seen(Phase.PREPARED))
    if state is not Phase.PREPARED:
        node.does(seen(Phase.RUNNING))
    if state is Phase.ENDED:
        node.does(STOPPED)
    effects = node.does(assigned(Desired.STOPPED))
    assert [effect for effect in effects if isinstance(effect, Signal)]
    effects = node.does(seen(Phase.ENDED, 137, remains=state is Phase.RUNNING))
    assert [effect for effect in effects if isinstance(effect, Remove)]
    assert (node.told[-1].state, node.told[-1].exit and node.told[-1].exit.outcome) == (
        TaskState.REMOVED,
        Outcome.KILLED,
    )


def test_it_is_not_made_again_once_it_has_vanished() -> None:
    node = Node()
    effects = node.does(Snapshot(runtime="docker", reports=()))
    assert [type(effect) for effect in effects if isinstance(effect, Start)] == [Start], "it was never made"
    node.does(seen(Phase.PREPARED))
    effects = node.does(Snapshot(runtime="docker", reports=()))
    assert not [effect for effect in effects if isinstance(effect, Start)]
    assert node.told[-1].state is TaskState.REMOVED


@pytest.mark.parametrize(("desired", "starts"), [(Desired.PREPARED, 0), (Desired.RUNNING, 1)])
def test_one_made_by_an_earlier_agent_is_started_only_if_that_was_asked_for(desired: Desired, starts: int) -> None:
    node = Node(desired)
    effects = node.does(Snapshot(runtime="docker", reports=(seen(Phase.PREPARING),)))
    assert len([effect for effect in effects if isinstance(effect, Start)]) == starts
    node.does(seen(Phase.RUNNING))
    node.does(STOPPED)
    effects = node.does(Snapshot(runtime="docker", reports=(STOPPED,)))
    assert not [effect for effect in effects if isinstance(effect, Start)], "who stopped it wants it stopped"
    assert node.story[-1] == (2, "prepared")


reports = st.sampled_from(
    [
        seen(Phase.PREPARING),
        seen(Phase.PREPARED),
        seen(Phase.STARTING),
        seen(Phase.RUNNING),
        STOPPED,
        seen(Phase.ENDED, 0, remains=True),
        seen(Phase.ENDED, 0),
    ]
)


@given(st.sampled_from([Desired.PREPARED, Desired.RUNNING]), st.lists(st.tuples(reports, st.booleans()), max_size=12))
def test_states_move_forward_whatever_is_seen(desired: Desired, events: list[tuple[Report, bool]]) -> None:
    node = Node(desired)
    for report, as_snapshot in events:
        node.does(Snapshot(runtime="docker", reports=(report,)) if as_snapshot else report)
    moves = [(status.incarnation, STATE_ORDER[status.state], status.sequence) for status in node.told]
    assert moves == sorted(moves)
    removed = [status for status in node.told if status.state is TaskState.REMOVED]
    assert len(removed) <= 1
    assert not removed or removed[0] is node.told[-1]


# In the kernel


@attrs.frozen
class Reserved:
    by: str


class Keeper(Framework):
    """Makes what it is told to, now or never."""

    name = "keeper"
    documents = {"name": Reserved}  # noqa: RUF012

    def command(self, view: View, command: Any) -> Iterator[Action]:
        if command == "kill":
            yield Kill("one")
            return
        yield Put("name", "one", Reserved(command["node"]))
        policies = Policies(keep_ended=True, partition=PartitionPolicy(keep=True))
        yield Ask(
            "one",
            Docker("busybox"),
            needs=Resources(cpus=command["cpus"]),
            policies=policies,
            wait_ms=0,
            desired=Desired.PREPARED,
        )
        yield Reply("asked")

    def handle(self, view: View, changed: Changed) -> Iterator[Action]:
        return iter(())


def cluster() -> Cluster:
    made = Cluster(Keeper())
    made.add_node("n", cpus=2, runtimes=("docker",))
    made.settle()
    return made


def test_the_kernel_follows_it_and_holds_its_resources() -> None:
    one = cluster()
    assert one.command("keeper", {"cpus": 1, "node": "n"}) == "asked"
    one.settle()

    def task() -> Any:
        return one.view("keeper").tasks["one"]

    assert (task().state, task().desired, task().live) == (TaskState.PREPARED, Desired.PREPARED, True)
    free = one.state.candidate("n").free.get("cpus")
    assert free == 1_000
    one.start_task(task())
    assert task().state is TaskState.RUNNING
    first = task().started_utc_ms
    assert first is not None
    one.stop_task(task(), code=7)
    assert (task().state, task().status.incarnation, task().live) == (TaskState.PREPARED, 2, True)
    assert task().status.exit.code == 7
    assert one.state.candidate("n").free.get("cpus") == free
    one.advance(5)
    one.start_task(task())
    assert task().started_utc_ms > first
    assert [entry.type for entry in one.log if entry.subject == task().id] == [
        "task.placed", "task.running", "task.stopped", "task.running"
    ]  # fmt: skip
    one.command("keeper", "kill")
    one.settle()
    assert task().state is TaskState.REMOVED
    assert one.state.candidate("n").free.get("cpus") == 2_000


def test_a_command_whose_ask_finds_no_place_says_why() -> None:
    one = cluster()
    with pytest.raises(NotPlaced, match="cpus") as caught:
        one.command("keeper", {"cpus": 5, "node": "n"})
    assert (caught.value.key, caught.value.explanation.nodes) == ("one", 1)
    assert one.command("keeper", {"cpus": 1, "node": "n"}) == "asked"

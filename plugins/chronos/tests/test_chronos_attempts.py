"""A run's attempts: how many there are, what is kept of them, and when there are no more."""

from __future__ import annotations

import attrs
import pytest
from chronos_cluster import ChronosCluster

from orlop.kernel.events import DrainNode
from orlop_chronos import attempts, documents, orders, specs
from orlop_chronos.desk import Desk
from orlop_chronos.documents import Attempt, Run


@pytest.mark.parametrize("text", ["x" * 200, "ü" * 200], ids=["of one byte", "of two bytes"])
def test_arguments_may_be_longer_than_the_name_of_a_task(text: str) -> None:
    cluster = ChronosCluster()
    cluster.put("a", arguments=[text] * 50)
    (task,) = cluster.running("a")
    whole = f"ct:{cluster.runs('a')[0].nominal_ms}:0:a:{' '.join([text] * 50)}"
    assert whole.startswith(task.name)
    assert specs.LONGEST_TASK_NAME_BYTES - 1 <= len(task.name.encode()) <= specs.LONGEST_TASK_NAME_BYTES
    assert task.environment["MESOS_TASK_ID"] == task.name
    cluster.finish("a")
    assert cluster.states("a") == ["succeeded"]


def run_with(count: int, reason: str) -> Run:
    failed = Attempt(task="t", asked_ms=1, ended_ms=2, outcome="failed", code=1, reason=reason)
    return Run(
        job="a",
        number=0,
        nominal_ms=1,
        identity="i",
        cause=documents.Cause.TIME,
        state=documents.RunState.ACTIVE,
        created_ms=1,
        attempts=(failed,) * count,
    )


def test_a_run_has_no_more_attempts_than_a_store_takes_as_one_document() -> None:
    cluster = ChronosCluster()
    cluster.put("a", retries=2**31 - 1)
    view = cluster.cluster.view("chronos")
    desk = Desk(view, cluster.settings)
    record = view.objects(documents.JOB)["a"]
    for count, again in ((attempts.MOST_ATTEMPTS - 1, True), (attempts.MOST_ATTEMPTS, False)):
        run = run_with(count, "")
        assert attempts.may_retry(desk, record, run, run.attempts[-1]) is again


def test_of_many_attempts_reasons_are_cut() -> None:
    run = run_with(attempts.MOST_ATTEMPTS, "r" * 4_096)
    kept = attempts.kept(run.attempts)
    assert [len(one.reason) for one in kept] == [4_096] * 20 + [200] * 980
    assert attempts.kept(kept) == kept
    assert sum(len(str(attrs.astuple(one))) for one in kept) < 1_000_000


@pytest.mark.parametrize("loss", ["at-most-once", "at-least-once"])
def test_what_was_killed_on_a_node_that_is_away_is_not_tried_again_when_the_node_is_lost(loss: str) -> None:
    cluster = ChronosCluster(nodes=2)
    cluster.put("a", nodeLoss=loss, retryDelay=1)
    node = node_of(cluster, "a")
    cluster.cluster.lose_node(node, gone=False)
    cluster.give(orders.KillRuns(name="a"))
    assert cluster.states("a") == ["active"], "nobody knows yet whether it has stopped"
    cluster.cluster.lose_node(node)
    cluster.advance(60)
    assert cluster.states("a") == ["killed"]
    assert cluster.runs("a")[0].reason == "killed by a user"
    assert cluster.show("a")["errorCount"] == 0


def test_what_was_replaced_on_a_node_that_is_away_is_not_tried_again() -> None:
    cluster = ChronosCluster(nodes=2)
    cluster.put("a", schedule="R//PT10S", nodeLoss="at-least-once", overlap="replace", retryDelay=1)
    node = node_of(cluster, "a")
    cluster.cluster.lose_node(node, gone=False)
    cluster.advance(10)
    cluster.cluster.lose_node(node)
    cluster.advance(5)
    assert cluster.states("a") == ["killed", "active"]


def node_of(cluster: ChronosCluster, job: str) -> str:
    """The name of the node on which the job's only task runs."""
    (task,) = cluster.running(job)
    node = cluster.cluster.view("chronos").node(task.node)
    assert node is not None
    return node.info.name


@pytest.mark.parametrize(("retries", "states"), [(1, ["active"]), (0, ["failed"])])
def test_what_a_drain_stops_is_tried_again_elsewhere(retries: int, states: list[str]) -> None:
    cluster = ChronosCluster(nodes=2)
    cluster.put("a", retries=retries, retryDelay=1)
    node = cluster.running("a")[0].node or ""
    cluster.cluster.step(DrainNode(node=node, drained=True, within_ms=0))
    cluster.advance(5)
    assert cluster.states("a") == states
    assert all(task.node != node for task in cluster.running("a"))
    assert "is drained" in cluster.runs("a")[0].attempts[0].reason


def test_while_everything_is_paused_nothing_is_tried_again() -> None:
    cluster = ChronosCluster()
    cluster.put("a", retryDelay=5)
    cluster.finish("a", code=1)
    cluster.give(orders.Pause(paused=True))
    cluster.advance(60)
    assert cluster.states("a") == ["waiting"]
    cluster.give(orders.Pause(paused=False))
    assert len(cluster.running("a")) == 1


def test_while_everything_is_paused_nothing_that_waits_for_an_earlier_run_begins() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R//PT10S")
    cluster.advance(10)
    cluster.give(orders.Pause(paused=True))
    cluster.finish("a")
    assert cluster.states("a") == ["succeeded", "queued"]
    cluster.give(orders.Pause(paused=False))
    assert cluster.states("a") == ["succeeded", "active"]


def test_by_hand_a_run_is_made_and_tried_again_while_everything_is_paused() -> None:
    cluster = ChronosCluster()
    cluster.give(orders.Pause(paused=True))
    cluster.put("a", schedule="R0//P1D", retryDelay=5)
    cluster.give(orders.StartJob(name="a"))
    cluster.finish("a", code=1)
    cluster.advance(5)
    assert len(cluster.running("a")) == 1

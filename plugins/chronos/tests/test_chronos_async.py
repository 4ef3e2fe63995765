"""Async jobs of Chronos 2: a run ends when somebody says so."""

from __future__ import annotations

import pytest
from chronos_cluster import ChronosCluster, refused

from orlop_chronos import orders


def asynchronous(**members: object) -> tuple[ChronosCluster, str]:
    cluster = ChronosCluster()
    cluster.put("a", **{"schedule": "R//PT10S", "retries": 0, "async": True, **members})
    cluster.put("b", parents=["a"])
    return cluster, cluster.running("a")[0].name


def test_a_run_ends_when_somebody_says_so() -> None:
    cluster, task = asynchronous()
    cluster.finish("a")
    assert cluster.states("a") == ["awaiting"]
    assert cluster.runs("b") == []
    cluster.advance(10)
    assert cluster.states("a") == ["awaiting", "queued"], "it still goes on"
    cluster.give(orders.ReportTask(task=task, code=0))
    assert cluster.states("a") == ["succeeded", "active"]
    assert len(cluster.running("b")) == 1
    assert "does not run" in refused(cluster, orders.ReportTask(task=task, code=0))


def test_it_may_be_said_before_the_program_ends() -> None:
    for code, state in ((0, "succeeded"), (3, "failed")):
        cluster, task = asynchronous()
        cluster.give(orders.ReportTask(task=task, code=code))
        assert cluster.states("a") == ["active"]
        cluster.finish("a")
        assert cluster.states("a") == [state]


def test_a_bad_report_is_a_failed_attempt() -> None:
    cluster, task = asynchronous()
    cluster.finish("a")
    cluster.give(orders.ReportTask(task=task, code=7))
    assert cluster.states("a") == ["failed"]
    assert "code 7" in cluster.runs("a")[0].reason


def test_a_program_that_fails_needs_nobody() -> None:
    cluster, _ = asynchronous()
    cluster.finish("a", code=1)
    assert cluster.states("a") == ["failed"]


def test_what_is_awaited_can_be_killed() -> None:
    cluster, _ = asynchronous()
    cluster.finish("a")
    cluster.give(orders.KillRuns(name="a"))
    assert cluster.states("a") == ["killed"]


@pytest.mark.parametrize("task", ["", "ct:1:0:a:", "x", "ct:1:0:nope:", ":" * 9])
def test_reports_of_tasks_that_are_not(task: str) -> None:
    cluster, _ = asynchronous()
    assert "Task" in refused(cluster, orders.ReportTask(task=task, code=0))


def test_nobody_says_how_a_run_has_ended_until_it_is_too_late() -> None:
    cluster, _ = asynchronous(schedule="R1//PT10S", maxCompletionTime=60, retries=1, retryDelay=10)
    cluster.finish("a")
    cluster.advance(59)
    assert cluster.states("a") == ["awaiting"]
    cluster.advance(1)
    assert cluster.states("a") == ["waiting"], "to be tried again"
    cluster.advance(10)
    cluster.finish("a")
    cluster.advance(60)
    (run,) = cluster.runs("a")
    assert (run.state, len(run.attempts)) == ("failed", 2)
    assert run.reason == "nobody said within 60 s how it ended"


def test_a_program_that_ends_well_after_a_bad_report_is_told_of_by_the_report() -> None:
    cluster, task = asynchronous()
    cluster.give(orders.ReportTask(task=task, code=3))
    cluster.finish("a")
    assert cluster.runs("a")[0].reason == "it was reported with code 3"


def test_it_may_be_said_by_the_id_that_the_program_was_told_whatever_its_job_is_now() -> None:
    cluster, task = asynchronous(arguments=["before"])
    cluster.put("a", schedule="R//PT10S", arguments=["after"], **{"async": True})
    cluster.finish("a")
    cluster.give(orders.ReportTask(task=task, code=0))
    assert cluster.states("a") == ["succeeded"]


def test_a_run_is_not_waited_for_when_its_job_is_async_no_more() -> None:
    cluster, _ = asynchronous()
    cluster.finish("a")
    cluster.put("a", schedule="R//PT10S")
    assert cluster.states("a") == ["succeeded"]
    assert len(cluster.running("b")) == 1


def test_a_killed_run_is_not_waited_for_even_if_its_program_ends_well() -> None:
    cluster, _ = asynchronous()
    cluster.cluster.lose_node("n0", gone=False)
    cluster.give(orders.KillRuns(name="a"))
    cluster.finish("a")
    assert cluster.states("a") == ["killed"]


def test_so_many_runs_at_most_wait_for_somebody_to_say_how_they_ended() -> None:
    cluster = ChronosCluster(most_queued_runs=3, history_count=4)
    cluster.put("a", schedule="R//PT10S", overlap="allow", **{"async": True})
    tasks = []
    for _ in range(30):
        for task in cluster.running("a"):
            tasks.append(task.name)
            cluster.cluster.end_task(task)
        cluster.advance(10)
    assert len(tasks) == 3
    assert cluster.states("a") == ["awaiting"] * 3 + ["skipped"] * 4
    assert cluster.runs("a")[-1].reason == "3 runs were waiting already"
    cluster.give(orders.ReportTask(task=tasks[1], code=0))
    cluster.advance(10)
    assert len(cluster.running("a")) == 1, "there is room for one again"

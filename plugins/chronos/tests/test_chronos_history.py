"""What is kept of the runs of a job, and for how long, in virtual time."""

from __future__ import annotations

from chronos_cluster import ChronosCluster

from orlop_chronos import orders
from orlop_chronos.framework import Chronos


def test_old_runs_are_forgotten() -> None:
    cluster = ChronosCluster(history_count=3)
    cluster.put("a", schedule="R//PT10S")
    for _ in range(8):
        cluster.finish("a")
        cluster.advance(10)
    assert [run.number for run in cluster.runs("a")] == [5, 6, 7, 8]
    assert len(cluster.cluster.view("chronos").objects("run")) == 4


def test_behind_a_run_that_goes_on_old_runs_are_forgotten_too() -> None:
    cluster = ChronosCluster(history_count=3)
    cluster.put("a", schedule="R//PT10S", overlap="forbid")
    for _ in range(100):
        cluster.advance(10)
    assert [run.number for run in cluster.runs("a")] == [0, 98, 99, 100]
    assert len(cluster.cluster.view("chronos").objects("run")) == 4
    cluster.finish("a")
    for _ in range(2):
        cluster.advance(10)
        cluster.finish("a")
    assert len(cluster.cluster.view("chronos").objects("run")) <= 4
    assert cluster.progress("a").oldest_run > 90
    cluster.give(orders.DeleteJob(name="a"))
    assert not cluster.cluster.view("chronos").objects("run")


def test_of_several_runs_that_go_on_each_is_forgotten_when_it_ends() -> None:
    cluster = ChronosCluster(history_count=3)
    cluster.put("a", schedule="R//PT10S", overlap="allow")
    cluster.advance(10)
    first, second = cluster.running("a")
    for _ in range(60):
        cluster.advance(10)
        for task in cluster.running("a"):
            if task.id not in (first.id, second.id):
                cluster.cluster.end_task(task)
        cluster.cluster.settle()
    cluster.cluster.end_task(second)
    cluster.cluster.settle()
    assert [run.number for run in cluster.runs("a")] == [0, 59, 60, 61]


def test_runs_of_a_job_that_is_over_are_forgotten_in_time() -> None:
    cluster = ChronosCluster(history_days=1)
    cluster.put("a", schedule="R1//PT1H")
    cluster.finish("a")
    cluster.advance(86_400)
    assert cluster.states("a") == ["succeeded"]
    cluster.advance(1)
    assert cluster.runs("a") == []
    assert cluster.names() == ["a"]
    assert not cluster.cluster.view("chronos").objects("run")


def test_runs_of_a_disabled_job_are_forgotten_in_time_as_many_as_they_are() -> None:
    cluster = ChronosCluster(history_days=1)
    cluster.put("a", schedule="R//PT10S")
    for _ in range(50):
        cluster.finish("a")
        cluster.advance(10)
    cluster.give(orders.SetDisabled(name="a", disabled=True))
    cluster.finish("a")
    cluster.cluster.restart(Chronos(cluster.settings))
    cluster.advance(86_400 - 200)
    left = [run.ended_ms or 0 for run in cluster.runs("a")]
    assert 0 < len(left) < 30
    assert min(left) + 86_400_000 >= cluster.now_ms
    cluster.advance(300)
    assert cluster.runs("a") == []


def test_runs_behind_one_that_goes_on_are_forgotten_in_time() -> None:
    cluster = ChronosCluster(history_days=1)
    cluster.put("a", schedule="R//PT10S", overlap="forbid")
    cluster.advance(300)
    cluster.give(orders.SetDisabled(name="a", disabled=True))
    assert len(cluster.runs("a")) == 31
    cluster.advance(86_401)
    assert cluster.states("a") == ["active"]


def test_runs_that_are_too_old_are_forgotten() -> None:
    cluster = ChronosCluster(history_days=1)
    cluster.put("a", schedule="R//PT12H")
    for _ in range(6):
        cluster.finish("a")
        cluster.advance(12 * 3600)
    assert len(cluster.runs("a")) <= 4

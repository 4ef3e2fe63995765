"""What becomes of a run while others of its job go on: its overlap policy, and backfills beside it."""

from __future__ import annotations

import pytest
from chronos_cluster import ChronosCluster, refused

from orlop_chronos import instants, orders

DAY_MS = 86_400_000


def test_queue_lets_one_run_wait() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R//PT10S")
    cluster.advance(35)
    assert cluster.states("a") == ["active", "queued", "skipped", "skipped"]
    cluster.finish("a")
    assert cluster.states("a")[:2] == ["succeeded", "active"]


def test_forbid_skips() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R//PT10S", overlap="forbid")
    cluster.advance(15)
    assert cluster.states("a") == ["active", "skipped"]
    assert "run 0" in cluster.runs("a")[1].reason


def test_allow_runs_both() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R//PT10S", concurrent=True)
    cluster.advance(15)
    assert len(cluster.running("a")) == 2


def test_replace_stops_the_earlier_run_first() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R//PT10S", overlap="replace")
    (first,) = cluster.running("a")
    cluster.advance(15)
    assert cluster.states("a") == ["killed", "active"]
    assert first.id not in {task.id for task in cluster.running()}
    assert cluster.show("a")["errorCount"] == 0


@pytest.mark.parametrize(
    ("overlap", "states"),
    [
        ("queue", ["queued", "skipped"]),
        ("forbid", ["queued", "skipped"]),
        ("replace", ["killed", "queued"]),
        ("allow", ["active", "active"]),
    ],
)
def test_what_still_runs_of_a_removed_job_is_in_the_way_of_its_namesake(overlap: str, states: list[str]) -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R//PT10S", overlap=overlap)
    (former,) = cluster.running("a")
    cluster.cluster.nodes[str(former.node)].stops = lambda _: False  # it takes its time
    cluster.give(orders.DeleteJob(name="a"))
    cluster.put("a", schedule="R//PT10S", overlap=overlap)
    cluster.advance(15)
    assert cluster.states("a") == states
    cluster.cluster.report_stopped(former)
    cluster.cluster.settle()
    assert former.id not in {task.id for task in cluster.running("a")}
    assert len(cluster.running("a")) == states.count("active") + states.count("queued")


def test_replace_gives_up_one_that_is_to_be_tried_again() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R//PT10S", overlap="replace", retryDelay=15)
    cluster.finish("a", code=1)
    assert cluster.states("a") == ["waiting"]
    cluster.advance(10)
    assert cluster.states("a") == ["killed", "active"]
    assert "replaced by run 1" in cluster.runs("a")[0].reason


def test_a_backfill_runs_every_due_time_of_a_stretch_one_after_the_other() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R/2023-11-01T00:00:00Z/P1D", disabled=True)
    from_ms = cluster.now_ms - 5 * 86_400_000
    count = cluster.give(orders.Backfill(name="a", from_ms=from_ms, until_ms=cluster.now_ms))
    assert count == 5
    times = []
    for _ in range(count):
        (task,) = cluster.running("a")
        times.append(task.environment["CHRONOS_NOMINAL_TIME"])
        cluster.finish("a")
    assert times == [f"2023-11-{day}T00:00:00.000Z" for day in (10, 11, 12, 13, 14)]
    assert "at most" in refused(cluster, orders.Backfill(name="a", from_ms=0, until_ms=cluster.now_ms * 5))


def with_backfill(overlap: str) -> ChronosCluster:
    """An hourly job that is due in half an hour. Three days are made up for, and the first of their runs goes on."""
    cluster = ChronosCluster()
    start_ms = cluster.now_ms - 3 * DAY_MS + 1_800_000
    start = instants.format_instant(instants.wall_at(start_ms, instants.UTC))
    cluster.put("a", schedule=f"R/{start}/PT1H", overlap=overlap, catchUp="none")
    cluster.give(orders.Backfill(name="a", from_ms=start_ms, until_ms=start_ms + 3 * 3_600_000 - 1))
    return cluster


def causes(cluster: ChronosCluster, *states: str) -> list[str]:
    return [run.cause.value for run in cluster.runs("a") if run.state.value in states]


@pytest.mark.parametrize("overlap", ["queue", "forbid", "replace"])
def test_a_backfill_takes_no_due_time_from_its_job(overlap: str) -> None:
    cluster = with_backfill(overlap)
    assert causes(cluster, "active", "queued") == ["backfill"] * 3
    cluster.advance(1_800)
    assert causes(cluster, "active", "queued") == ["backfill"] * 3 + ["time"], "it waits for the one that runs"
    cluster.finish("a")
    assert causes(cluster, "active") == ["time"], "and goes first then"
    cluster.finish("a")
    for _ in range(2):
        assert causes(cluster, "active") == ["backfill"]
        cluster.finish("a")
    assert sorted(causes(cluster, "succeeded")) == ["backfill"] * 3 + ["time"]
    assert not causes(cluster, "active", "queued", "killed")


def test_among_themselves_due_runs_go_by_their_policy_beside_a_backfill() -> None:
    cluster = with_backfill("queue")
    cluster.advance(1_800 + 3_600)
    assert causes(cluster, "queued") == ["backfill"] * 2 + ["time"]
    assert [run.reason for run in cluster.runs("a") if run.state.value == "skipped"][
        -1
    ] == "1 runs were waiting already"


def test_so_many_runs_at_most_wait_for_a_node() -> None:
    cluster = ChronosCluster(most_queued_runs=3)
    cluster.put("a", schedule="R//PT10S", overlap="allow", mem=10_000_000)
    cluster.advance(45)
    assert cluster.states("a") == ["active"] * 3 + ["skipped"] * 2
    assert cluster.runs("a")[-1].reason == "3 runs were waiting already"
    assert cluster.running("a") == []


def test_runs_that_have_a_node_do_not_count_as_waiting() -> None:
    cluster = ChronosCluster(most_queued_runs=3)
    cluster.put("a", schedule="R//PT10S", overlap="allow")
    cluster.advance(45)
    assert len(cluster.running("a")) == 5


def test_epsilon_is_how_late_a_run_may_be_made_and_not_how_long_it_may_wait() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R//PT30S", epsilon="PT60S")
    cluster.advance(299)
    cluster.finish("a")
    second = cluster.runs("a")[1]
    assert (second.state, second.attempts[0].asked_ms - second.nominal_ms) == ("active", 269_000)
    assert {run.reason for run in cluster.runs("a")[2:]} == {"1 runs were waiting already"}

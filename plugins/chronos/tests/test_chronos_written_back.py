"""Jobs that clients read and write back, which is how Chronos' clients change one member: nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
from chronos_cluster import ChronosCluster

from orlop_chronos import instants, orders
from orlop_chronos.documents import Cause

DAY_S = 86_400


def in_ten_seconds(cluster: ChronosCluster) -> str:
    return instants.format_instant(instants.wall_at(cluster.now_ms + 10_000, instants.UTC))


def read_after_one_run(schedule: str, **members: Any) -> tuple[ChronosCluster, dict[str, Any]]:
    """A daily job that has run once, as a client has read it then. schedule: `{}` for its start."""
    cluster = ChronosCluster()
    cluster.put("a", schedule=schedule.format(in_ten_seconds(cluster)), **members)
    cluster.advance(10)
    cluster.finish("a")
    return cluster, cluster.show("a")


@pytest.mark.parametrize("schedule", ["R/{}/P1D", "R5/{}/P1D", "R/{}/PT24H"])
@pytest.mark.parametrize("days", [1, 3])
@pytest.mark.parametrize("zone", ["", "Europe/Paris"])
def test_what_has_run_meanwhile_is_not_run_again(schedule: str, days: int, zone: str) -> None:
    cluster, read = read_after_one_run(schedule, scheduleTimeZone=zone)
    for _ in range(days):
        cluster.advance(DAY_S)
        cluster.finish("a")
    place = cluster.progress("a").upcoming, cluster.progress("a").left
    cluster.put(**{**read, "description": "changed"})
    cluster.advance(3_600)
    assert cluster.running() == []
    assert cluster.show("a")["description"] == "changed"
    assert (cluster.progress("a").upcoming, cluster.progress("a").left) == place


def test_at_the_end_of_a_month_it_is_still_the_last_day() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R/2023-12-31T00:00:00Z/P1M", overlap="allow")
    while not cluster.show("a")["schedule"].startswith("R/2024-02-29"):
        cluster.advance(DAY_S)
    cluster.put(**cluster.show("a"))
    while not cluster.show("a")["schedule"].startswith("R/2024-03-"):
        cluster.advance(DAY_S)
    assert cluster.show("a")["schedule"] == "R/2024-03-31T00:00:00.000Z/P1M"


@pytest.mark.parametrize(
    "schedule",
    [
        "R/{}/PT12H",
        "R6/{}/P1D",
        "R1/{}/P1D",
        "R/2023-01-01T00:00:00Z/P1D",
        "R//P1D",
    ],
    ids=["another period", "more runs", "fewer runs", "another start", "now"],
)
def test_another_schedule_is_another(schedule: str) -> None:
    cluster, read = read_after_one_run("R5/{}/P1D")
    start = read["schedule"].split("/")[1]
    cluster.advance(DAY_S)
    cluster.finish("a")
    cluster.put(**{**read, "schedule": schedule.format(start)})
    assert len(cluster.running("a")) == 1, "it begins anew"


def test_a_start_that_is_still_to_come_is_another_start() -> None:
    cluster, read = read_after_one_run("R/{}/P1D")
    moment = cluster.progress("a").upcoming
    assert moment is not None
    later = instants.format_instant(instants.wall_at(moment.at_ms + 2 * DAY_S * 1000, instants.UTC))
    cluster.put(**{**read, "schedule": f"R/{later}/P1D"})
    cluster.advance(2 * DAY_S)
    assert cluster.running() == []
    cluster.advance(DAY_S)
    assert [run.cause for run in cluster.runs("a")] == [Cause.TIME] * 2


def test_a_job_that_was_due_for_the_last_time_stays_so() -> None:
    cluster, read = read_after_one_run("R1/{}/P1D")
    assert read["schedule"].startswith("R0/")
    cluster.put(**read)
    cluster.give(orders.SetDisabled(name="a", disabled=False))
    cluster.advance(3 * DAY_S)
    assert cluster.states("a") == ["succeeded"]


def due_day(cluster: ChronosCluster) -> str:
    moment = cluster.progress("a").upcoming
    return instants.wall_at(moment.at_ms, instants.UTC).date().isoformat() if moment is not None else ""


@pytest.mark.parametrize("schedule", ["R/2023-11-01T03:00:00Z/P1D", "R60/2023-11-01T03:00:00Z/P1D", "0 3 * * *"])
def test_other_days_without_runs_make_no_day_due_again(schedule: str) -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule=schedule, overlap="allow")
    cluster.advance(DAY_S)
    runs, left = cluster.states("a"), cluster.progress("a").left
    assert due_day(cluster) == "2023-11-16"
    for excluded, day in (
        (["2023-12-25"], "2023-11-16"),
        (["2023-11-16", "FRI"], "2023-11-18"),
        (["SAT"], "2023-11-16"),
        ([], "2023-11-16"),
    ):
        cluster.put("a", schedule=schedule, overlap="allow", exclude=excluded)
        assert (due_day(cluster), cluster.states("a"), cluster.progress("a").left) == (day, runs, left), excluded


def test_what_was_missed_is_made_up_for_on_the_days_that_are_left() -> None:
    cluster = ChronosCluster()
    schedule = "R/2023-11-20T03:00:00Z/P1D"
    cluster.put("a", schedule=schedule, disabled=True)
    cluster.advance(10 * DAY_S)
    cluster.put("a", schedule=schedule, exclude=["2023-11-20", "2023-11-24"], catchUp="all", overlap="allow")
    days = [instants.wall_at(run.nominal_ms, instants.UTC).day for run in cluster.runs("a")]
    assert days == [21, 22, 23]

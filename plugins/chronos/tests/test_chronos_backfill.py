"""Which due times a backfill runs."""

from __future__ import annotations

from typing import Any

import pytest
from chronos_cluster import ChronosCluster

from orlop_chronos import orders, reading, rendering


def since(text: str) -> int:
    """UTC milliseconds."""
    at_ms = reading.read_instant(text)
    assert at_ms is not None
    return at_ms


@pytest.mark.parametrize(
    ("members", "days"),
    [
        ({"schedule": "R3/2023-11-03T00:00:00Z/P1D"}, [3, 4, 5]),
        ({"schedule": "R3/2023-11-03T00:00:00Z/P1D", "exclude": ["SAT", "SUN"]}, [3, 6, 7]),
        ({"schedule": "R1/2023-11-03T00:00:00Z/PT0S"}, [3]),
        ({"schedule": "R0/2023-11-03T00:00:00Z/P1D"}, []),
        ({"schedule": "R3/2023-11-01T00:00:00Z/P1D"}, [2, 3]),
        ({"schedule": "R3/2023-11-11T00:00:00Z/P1D"}, []),
        ({"schedule": "R/2023-11-08T00:00:00Z/P1D"}, [8, 9, 10]),
        ({"schedule": "0 0 * * *"}, [2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ({"schedule": "0 0 * * *", "exclude": ["SAT", "SUN"]}, [2, 3, 6, 7, 8, 9, 10]),
        ({"schedule": "0 0 * * MON"}, [6]),
        ({"schedule": "0 0 31 12 *"}, []),
    ],
)
def test_a_backfill_runs_what_the_schedule_has_and_no_more(members: dict[str, Any], days: list[int]) -> None:
    """From the 2nd until the 10th, before there was the job. 4 November is a Saturday."""
    cluster = ChronosCluster()
    cluster.put("a", disabled=True, overlap="allow", **members)
    assert since("2023-11-10T00:00:00Z") < cluster.now_ms
    from_ms, until_ms = (since(f"2023-11-{day}T00:00:00Z") for day in ("02", "10"))
    assert cluster.give(orders.Backfill(name="a", from_ms=from_ms, until_ms=until_ms)) == len(days)
    assert [rendering.instant(run.nominal_ms)[8:10] for run in cluster.runs("a")] == [f"{day:02}" for day in days]


def test_a_backfill_of_a_crontab_line_changes_nothing_else() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="0 * * * *", overlap="allow")
    before = cluster.progress("a")
    cluster.give(
        orders.Backfill(name="a", from_ms=since("1970-01-01T00:00:00Z"), until_ms=since("1970-01-01T02:30:00Z"))
    )
    cluster.give(orders.Backfill(name="a", from_ms=cluster.now_ms - 7_200_000, until_ms=cluster.now_ms + 7_200_000))
    assert cluster.progress("a").upcoming == before.upcoming
    times = [rendering.instant(run.nominal_ms)[:13] for run in cluster.runs("a")]
    assert times[:3] == ["1970-01-01T00", "1970-01-01T01", "1970-01-01T02"]
    assert len(times) == len(set(times)) == 7

"""Which due times a backfill runs."""

from __future__ import annotations

from typing import Any

import pytest
from chronos_cluster import ChronosCluster

from orlop_chronos import orders, reading, rendering


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
    ],
)
def test_a_backfill_runs_what_the_schedule_has_and_no_more(members: dict[str, Any], days: list[int]) -> None:
    """From the 2nd until the 10th. 4 November is a Saturday."""
    cluster = ChronosCluster()
    cluster.put("a", disabled=True, overlap="allow", **members)
    from_ms, until_ms = (reading.read_instant(f"2023-11-{day}T00:00:00Z") for day in ("02", "10"))
    assert from_ms is not None
    assert until_ms is not None
    assert cluster.give(orders.Backfill(name="a", from_ms=from_ms, until_ms=until_ms)) == len(days)
    assert [rendering.instant(run.nominal_ms)[8:10] for run in cluster.runs("a")] == [f"{day:02}" for day in days]

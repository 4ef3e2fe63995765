"""What an event costs depends on what it changes, not on how many jobs there are. Work is counted, not timed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from chronos_cluster import ChronosCluster

from orlop.kernel import view
from orlop_chronos import framework, orders
from orlop_chronos.framework import Chronos


class Looks:
    """How many documents and tasks are looked up; listing all of them is a fault."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for mapping in (view._Objects, view._Tasks):
            original = mapping.__getitem__

            def look(one: Any, key: str, original: Any = original) -> Any:
                self.count += 1
                return original(one, key)

            def iterate(one: Any) -> Iterator[str]:
                raise AssertionError(f"{type(one).__name__} is listed")

            monkeypatch.setattr(mapping, "__getitem__", look)
            monkeypatch.setattr(mapping, "__iter__", iterate)


def looks_of_one_jobs_life(count: int) -> int:
    """Documents looked up while one of so many jobs is put, changed, started, ended, due by time and deleted."""
    cluster = ChronosCluster()
    for number in range(count):
        cluster.put(f"other-{number}", schedule="R/2090-01-01T00:00:00Z/P1D")
    cluster.cluster._check_idempotence = False  # which looks at everything
    with pytest.MonkeyPatch.context() as monkeypatch:
        looks = Looks(monkeypatch)
        cluster.put("one", schedule="R//PT1H")
        cluster.finish("one")
        cluster.put("child", parents=["one"])
        cluster.give(orders.StartJob(name="one"))
        cluster.finish("one")
        cluster.finish("child")
        cluster.advance(3600)
        cluster.finish("one")
        cluster.put("one", schedule="R//PT2H")
        cluster.give(orders.DeleteJob(name="child"))
        cluster.give(orders.DeleteJob(name="one"))
    assert cluster.names() == sorted(f"other-{number}" for number in range(count))
    return looks.count


def test_an_event_of_one_job_looks_at_no_other() -> None:
    assert looks_of_one_jobs_life(2) == looks_of_one_jobs_life(60)


def test_times_that_do_not_count_any_more_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change of a job that is due in years left one behind, for as many years."""
    monkeypatch.setattr(framework, "FORGOTTEN_KEPT", 5)
    cluster = ChronosCluster()
    (chronos,) = (runner.framework for runner in cluster.cluster._runners.values())
    assert isinstance(chronos, Chronos)
    for year in range(2030, 2080):
        cluster.put("a", schedule=f"R/{year}-01-01T00:00:00Z/P1D")
        assert len(chronos._heap) <= 2 * len(chronos._next) + 5
    assert chronos._heap

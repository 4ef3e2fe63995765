"""Swarm on simulated servers and nodes while everything breaks: each container is there once, and for a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import pytest
from planted_in_swarm import (
    a_container_ends_with_its_run,
    a_drain_is_a_removal,
    names_are_given_twice,
    names_stay_taken,
    updates_are_forgotten,
    what_is_removed_is_made_again,
    whether_it_ran_is_forgotten,
)
from pool_of_containers import Containers

from orlop.testing.scenario import run_scenario
from orlop.testing.simulation.world import Broken

#: What must have happened somewhere, or the histories would show nothing.
HAPPENS: Final = {
    "made", "running", "touched: start", "touched: stop", "touched: remove", "moved, running", "moved, stopped",
    "a client has removed it", "an operator has killed it", "its node was emptied", "renamed", "updated",
    "updated, and moved",
}  # fmt: skip


def test_each_container_is_there_once_and_for_a_reason(orlop_simulation: Any) -> None:
    played: list[Containers] = []

    def pool() -> Containers:
        played.append(Containers())
        return played[-1]

    orlop_simulation(pool, seeds=range(60))
    happened = sum((one.happened for one in played), Counter())
    assert happened.keys() >= HAPPENS, HAPPENS - happened.keys()


# --- does the net catch fish? ---


@pytest.mark.parametrize(
    ("plant", "seed"),
    [
        (what_is_removed_is_made_again, 0),
        (whether_it_ran_is_forgotten, 8),
        (updates_are_forgotten, 8),
        (names_stay_taken, 0),
        (names_are_given_twice, 0),
        (a_drain_is_a_removal, 4),
        (a_container_ends_with_its_run, 0),
    ],
)
def test_a_planted_fault_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(Broken, match="AssertionError"):
        run_scenario(seed, Containers, shrink=False)

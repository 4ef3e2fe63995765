"""Chronos on simulated servers and nodes while everything breaks: no due time is missed or doubled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from minute_of_cron import Cron
from planted_in_chronos import (
    any_parent_will_do,
    every_other_due_time,
    every_run_that_is_asked_for_twice,
    nothing_is_in_the_way,
    nothing_is_said_of_what_is_passed_over,
)

from orlop.testing.scenario import run_scenario
from orlop.testing.simulation.world import Broken


def test_no_due_time_is_missed_or_doubled(orlop_simulation: Any) -> None:
    played: list[Cron] = []

    def cron() -> Cron:
        played.append(Cron())
        return played[-1]

    orlop_simulation(cron, seeds=range(60))
    assert any(one.backfilled for one in played)


# --- does the net catch fish? ---


@pytest.mark.parametrize(
    "plant",
    [
        every_other_due_time,
        every_run_that_is_asked_for_twice,
        nothing_is_said_of_what_is_passed_over,
        any_parent_will_do,
        nothing_is_in_the_way,
    ],
)
def test_a_planted_fault_is_found(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for seed in range(20):
        try:
            run_scenario(seed, Cron, shrink=False)
        except Broken as broken:
            assert "AssertionError" in str(broken)
            return
    pytest.fail("20 histories did not show it")

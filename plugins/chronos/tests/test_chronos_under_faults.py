"""Chronos on simulated servers and nodes while everything breaks: no due time is missed or doubled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from minute_of_cron import Cron

from orlop.testing.scenario import run_scenario
from orlop.testing.simulation.world import Broken
from orlop_chronos import attending


def test_no_due_time_is_missed_or_doubled(orlop_simulation: Any) -> None:
    orlop_simulation(Cron, seeds=range(60))


# --- does the net catch fish? ---


def lose_a_due_time(monkeypatch: pytest.MonkeyPatch) -> None:
    move_on = attending._move_on

    def careless(desk: Any, job: Any, due: Any, last: Any, used: int) -> None:
        move_on(desk, job, due, due.following(last) or last, used)

    monkeypatch.setattr(attending, "_move_on", careless)


def say_nothing_of_what_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attending, "_pass_over", lambda *_: None)


def let_any_parent_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attending, "rule_is_met", lambda _rule, _parents, edges: bool(edges))


def start_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attending, "_is_in_the_way", lambda *_: False)


@pytest.mark.parametrize(
    "plant", [lose_a_due_time, say_nothing_of_what_is_passed_over, let_any_parent_do, start_at_any_time]
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

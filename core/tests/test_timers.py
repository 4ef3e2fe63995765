"""What is due by the clock of the day is called back, also when that clock is set."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, tzinfo
from typing import Any

import pytest
from apscheduler.schedulers import base

from orlop.agent.agent import read_clock
from orlop.model.clock import Now
from orlop.server.clock_watch import TOLERATED_MS, ClockWatch
from orlop.server.timers import TimerService

HOUR_MS = 3_600_000


class SetClock:
    """The machine's, which somebody sets: for the service, and for APScheduler, which reads it by itself."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ahead_ms = 0
        patch.setattr(base, "datetime", self)

    def now(self, zone: tzinfo | None = None) -> datetime:
        return datetime.now(zone) + timedelta(milliseconds=self.ahead_ms)

    def read(self) -> Now:
        now = read_clock()
        return Now(utc_ms=now.utc_ms + self.ahead_ms, monotonic_ms=now.monotonic_ms)

    def __getattr__(self, name: str) -> Any:
        return getattr(datetime, name)


def test_a_clock_that_is_set_forward_passes_nothing_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SetClock(monkeypatch)

    async def scenario() -> None:
        timers, called, waits = TimerService(asyncio.get_running_loop(), clock.read), asyncio.Event(), asyncio.Event()
        timers.set("due", clock.read().utc_ms + HOUR_MS, called.set)
        timers.set("now", clock.read().utc_ms, waits.set)
        await asyncio.wait_for(waits.wait(), 10)
        assert not called.is_set()
        clock.ahead_ms = 2 * HOUR_MS
        await asyncio.wait_for(called.wait(), 10)
        timers.stop()

    asyncio.run(scenario())


def test_a_clock_that_goes_on_as_it_did_was_not_set() -> None:
    watch = ClockWatch(Now(utc_ms=1_000_000, monotonic_ms=500))
    assert watch.moved_ms(Now(utc_ms=1_001_000, monotonic_ms=1_500)) == 0


def test_by_how_much_a_clock_was_set_is_told_once() -> None:
    watch = ClockWatch(Now(utc_ms=1_000_000, monotonic_ms=0))
    assert watch.moved_ms(Now(utc_ms=1_061_000, monotonic_ms=1_000)) == 60_000
    assert watch.moved_ms(Now(utc_ms=1_062_000, monotonic_ms=2_000)) == 0
    assert watch.moved_ms(Now(utc_ms=963_000, monotonic_ms=3_000)) == -100_000


def test_a_clock_that_is_hurried_for_long_is_noticed() -> None:
    """By half a millisecond a second, as time servers do it."""
    watch = ClockWatch(Now(utc_ms=0, monotonic_ms=0))
    clocks = [Now(utc_ms=1_000 * second + second // 2, monotonic_ms=1_000 * second) for second in range(2_000)]
    told = [watch.moved_ms(now) for now in clocks]
    assert sum(told) == pytest.approx(1_000, abs=TOLERATED_MS)

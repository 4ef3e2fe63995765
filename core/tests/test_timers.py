"""The timer service on APScheduler: one time for each key, whatever the clock does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, tzinfo
from typing import Any

import apscheduler.schedulers.base
import pytest

from orlop.agent.agent import read_clock
from orlop.model.clock import Now
from orlop.server.clock_watch import TOLERATED_MS, ClockWatch
from orlop.server.timers import LATEST_MS, SOONEST_MS, TimerService

HOUR_MS = 3_600_000
WITHIN_S = 30


@contextlib.contextmanager
def running(clock: Callable[[], Now] = read_clock) -> Iterator[TimerService]:
    service = TimerService(asyncio.get_running_loop(), clock)
    try:
        yield service
    finally:
        service.stop()


async def called(event: asyncio.Event) -> None:
    async with asyncio.timeout(WITHIN_S):
        await event.wait()


async def test_what_is_due_is_called_and_what_was_replaced_is_not() -> None:
    with running() as timers:
        due, replaced, forgotten = asyncio.Event(), asyncio.Event(), asyncio.Event()
        now_ms = read_clock().utc_ms
        timers.set("a", now_ms + 20, replaced.set)
        timers.set("a", now_ms + HOUR_MS, replaced.set)
        timers.set("b", now_ms + 20, forgotten.set)
        timers.set("b", None, forgotten.set)
        timers.set("c", now_ms + 60, due.set)
        await called(due)
        assert not replaced.is_set()
        assert not forgotten.is_set()


async def test_a_time_that_has_passed_is_called_at_once() -> None:
    with running() as timers:
        due = asyncio.Event()
        timers.set("a", read_clock().utc_ms - 7 * 24 * HOUR_MS, due.set)
        await called(due)


async def test_who_always_wants_to_be_called_at_once_leaves_time_for_others() -> None:
    with running() as timers:
        began_ms, calls, enough = read_clock().monotonic_ms, 0, asyncio.Event()

        def again() -> None:
            nonlocal calls
            calls += 1
            if calls == 20:
                enough.set()
            else:
                timers.set("a", read_clock().utc_ms - calls, again)

        again()
        await called(enough)
        assert read_clock().monotonic_ms - began_ms >= 19 * (SOONEST_MS - 1)


async def test_any_time_can_be_set(caplog: pytest.LogCaptureFixture) -> None:
    """Also what no calendar has: a period may be of thousands of millions of years."""
    with running() as timers:
        early, late = asyncio.Event(), asyncio.Event()
        for number, utc_ms in enumerate((LATEST_MS, LATEST_MS + 999, LATEST_MS + 1_000, 10**20, 10**30)):
            timers.set(f"late-{number}", utc_ms, late.set)
        timers.set("early", -(10**20), early.set)
        await called(early)
        after = asyncio.Event()
        timers.set("after", read_clock().utc_ms + 20, after.set)
        await called(after)
        assert not late.is_set()
    assert caplog.text == ""


def fail() -> None:
    raise ZeroDivisionError


async def test_one_that_raises_does_not_hold_up_the_others() -> None:
    with running() as timers:
        due, now_ms = asyncio.Event(), read_clock().utc_ms
        timers.set("a", now_ms, fail)
        timers.set("b", now_ms + 20, due.set)
        await called(due)


async def test_a_time_that_is_said_again_is_set_once_and_may_be_set_again_when_it_has_come() -> None:
    with running() as timers:
        told: asyncio.Queue[str] = asyncio.Queue()
        now_ms = read_clock().utc_ms
        for _ in range(2):
            timers.set("a", now_ms, lambda: told.put_nowait("a"))
            timers.set("a", now_ms, lambda: told.put_nowait("a"))
            assert await asyncio.wait_for(told.get(), WITHIN_S) == "a"
        timers.set("b", now_ms, lambda: told.put_nowait("b"))
        assert await asyncio.wait_for(told.get(), WITHIN_S) == "b"


class SetClock:
    """The machine's, which somebody sets: for the service, and for APScheduler, which reads it by itself."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ahead_ms = 0
        patch.setattr(apscheduler.schedulers.base, "datetime", self)

    def now(self, zone: tzinfo | None = None) -> datetime:
        return datetime.now(zone) + timedelta(milliseconds=self.ahead_ms)

    def read(self) -> Now:
        now = read_clock()
        return Now(utc_ms=now.utc_ms + self.ahead_ms, monotonic_ms=now.monotonic_ms)

    def __getattr__(self, name: str) -> Any:
        return getattr(datetime, name)


async def test_a_clock_that_is_set_forward_makes_nothing_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back first: what was due is not due any more, and is called when the clock is put right."""
    clock = SetClock(monkeypatch)
    with running(clock.read) as timers:
        due, soon = asyncio.Event(), asyncio.Event()
        now_ms = clock.read().utc_ms
        clock.ahead_ms = -HOUR_MS
        timers.set("a", now_ms + 20, due.set)
        timers.set("b", now_ms - HOUR_MS + 50, soon.set)
        await called(soon)
        assert not due.is_set()
        clock.ahead_ms = HOUR_MS
        await called(due)


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

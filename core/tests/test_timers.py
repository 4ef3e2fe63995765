"""The timer service on APScheduler: one time for each key, whatever the clock does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo

import apscheduler.schedulers.base
import pytest

from orlop.agent.agent import read_clock
from orlop.server.timers import TimerService

HOUR_MS = 3_600_000
WITHIN_S = 30


@contextlib.contextmanager
def running() -> Iterator[TimerService]:
    service = TimerService(asyncio.get_running_loop())
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


async def test_one_that_raises_does_not_hold_up_the_others() -> None:
    with running() as timers:
        due, now_ms = asyncio.Event(), read_clock().utc_ms
        timers.set("a", now_ms, lambda: 1 / 0)
        timers.set("b", now_ms + 20, due.set)
        await called(due)


async def test_a_clock_that_is_set_forward_makes_nothing_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back first: what was due is not due any more, and is called when the clock is put right."""

    class Clock(datetime):
        ahead = timedelta(0)

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + cls.ahead

    monkeypatch.setattr(apscheduler.schedulers.base, "datetime", Clock)
    with running() as timers:
        due, soon = asyncio.Event(), asyncio.Event()
        now_ms = read_clock().utc_ms
        Clock.ahead = -timedelta(hours=1)
        timers.set("a", now_ms + 20, due.set)
        timers.set("b", now_ms - HOUR_MS + 50, soon.set)
        await called(soon)
        assert not due.is_set()
        Clock.ahead = timedelta(hours=1)
        await called(due)


async def test_a_time_that_is_said_again_is_called_once_and_may_be_said_again_when_it_has_come() -> None:
    with running() as timers:
        calls: asyncio.Queue[str] = asyncio.Queue()
        now_ms = read_clock().utc_ms
        for name in ("first", "second"):
            for _ in range(3):
                timers.set("a", now_ms, lambda name=name: calls.put_nowait(name))  # type: ignore[misc]
            async with asyncio.timeout(WITHIN_S):
                assert await calls.get() == name
        timers.set("b", now_ms, lambda: calls.put_nowait("last"))
        async with asyncio.timeout(WITHIN_S):
            assert await calls.get() == "last"

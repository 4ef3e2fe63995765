"""The timer service: one time per key, said as often as one likes."""

from __future__ import annotations

import asyncio
import time

from orlop.server.timers import TimerService

DEADLINE_S = 20.0
LONG_MS = 3_600_000


def test_a_time_that_is_said_again_is_set_once_and_may_be_set_again_when_it_has_come() -> None:
    async def scenario() -> None:
        timers = TimerService(asyncio.get_running_loop())
        called: asyncio.Queue[int] = asyncio.Queue()
        now_ms = time.time_ns() // 1_000_000
        for _ in range(2):
            timers.set("key", now_ms, lambda: called.put_nowait(now_ms))
            timers.set("key", now_ms, lambda: called.put_nowait(now_ms))
            assert await asyncio.wait_for(called.get(), DEADLINE_S) == now_ms
        timers.set("other", now_ms, lambda: called.put_nowait(1))
        assert await asyncio.wait_for(called.get(), DEADLINE_S) == 1
        assert called.empty()
        timers.stop()

    asyncio.run(scenario())


def test_the_last_time_that_was_said_counts() -> None:
    async def scenario() -> None:
        timers = TimerService(asyncio.get_running_loop())
        called: asyncio.Queue[str] = asyncio.Queue()
        now_ms = time.time_ns() // 1_000_000
        timers.set("later", now_ms, lambda: called.put_nowait("too early"))
        timers.set("later", now_ms + LONG_MS, lambda: called.put_nowait("too early"))
        timers.set("forgotten", now_ms, lambda: called.put_nowait("forgotten"))
        timers.set("forgotten", None, lambda: called.put_nowait("forgotten"))
        timers.set("earlier", now_ms + LONG_MS, lambda: called.put_nowait("in time"))
        timers.set("earlier", now_ms, lambda: called.put_nowait("in time"))
        assert await asyncio.wait_for(called.get(), DEADLINE_S) == "in time"
        timers.set("last", now_ms, lambda: called.put_nowait("last"))
        assert await asyncio.wait_for(called.get(), DEADLINE_S) == "last"
        timers.stop()

    asyncio.run(scenario())

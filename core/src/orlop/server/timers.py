"""The timer service: calls back at UTC times. Runs on APScheduler, whose jobs only enqueue."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from apscheduler.executors.base import BaseExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger

from orlop.model.clock import Now
from orlop.server.clock_watch import LOOK_MS, ClockWatch

logging.getLogger("apscheduler").setLevel(logging.WARNING)
log = logging.getLogger(__name__)

#: A clock that was set by as much is told of; by less, it is kept right.
WORTH_TELLING_MS: Final = 5_000
#: 9999-12-31T23:59:59Z, later than which APScheduler knows no time; frameworks may say any.
LATEST_MS: Final = 253_402_300_799_000
#: Until a time that has passed is called: a framework that says one in each of its runs would take all processors.
SOONEST_MS: Final = 20


class _Inline(BaseExecutor):
    """Calls the job where the scheduler runs: jobs only enqueue."""

    def _do_submit_job(self, job: Any, run_times: Any) -> None:
        try:
            job.func(*job.args)
            self._run_job_success(job.id, [])
        except Exception as error:  # noqa: BLE001  (handed to APScheduler, which logs it)
            self._run_job_error(job.id, error, error.__traceback__)


class TimerService:
    """One time per key; setting it again replaces it. `set` may be called from any thread.

    What would be due after the year 9999 is called back at its end.

    clock: of this process; when it is set, what is due by it is called back within a second.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], Now]) -> None:
        self._loop = loop
        self._clock = clock
        self._watch = ClockWatch(clock())
        self._lock = threading.Lock()
        self._times: dict[str, int] = {}
        self._scheduler = AsyncIOScheduler(
            event_loop=loop,
            timezone=UTC,
            executors={"default": _Inline()},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1_000_000},
        )
        self._scheduler.start()
        self._look_again = loop.call_later(LOOK_MS / 1000, self._look)

    def set(self, key: str, utc_ms: int | None, callback: Callable[[], None]) -> None:
        """Calls back at `utc_ms`, on the loop; None forgets the key. Said again, the same time costs nothing."""
        with self._lock:
            if self._times.get(key) == utc_ms:
                return
            if utc_ms is not None:
                self._times[key] = utc_ms
            else:
                del self._times[key]
            self._loop.call_soon_threadsafe(self._set, key, utc_ms, callback)

    def _set(self, key: str, utc_ms: int | None, callback: Callable[[], None]) -> None:
        if utc_ms is not None:
            now_ms = self._clock().utc_ms
            due_ms = utc_ms if utc_ms > now_ms else now_ms + SOONEST_MS
            at = datetime.fromtimestamp(min(max(due_ms, 0), LATEST_MS) / 1000, UTC)
            arguments = (key, utc_ms, callback)
            self._scheduler.add_job(self._due, DateTrigger(at), arguments, id=key, replace_existing=True)
        elif self._scheduler.get_job(key) is not None:
            self._scheduler.remove_job(key)

    def _due(self, key: str, utc_ms: int, callback: Callable[[], None]) -> None:
        """Forgotten before it is told, so that whoever is told may set the same time again."""
        with self._lock:
            if self._times.get(key) == utc_ms:
                del self._times[key]
        callback()

    def _look(self) -> None:
        moved_ms = self._watch.moved_ms(self._clock())
        if moved_ms:
            if abs(moved_ms) >= WORTH_TELLING_MS:
                way = "forward" if moved_ms > 0 else "back"
                log.warning("this server's clock was set %s by %g s", way, abs(moved_ms) / 1000)
            self._scheduler.wakeup()  # it waits anew, by what the clock says now
        self._look_again = self._loop.call_later(LOOK_MS / 1000, self._look)

    def stop(self) -> None:
        self._look_again.cancel()
        self._scheduler.shutdown(wait=False)
